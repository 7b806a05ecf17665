// Calls that end before their time: nothing goes on upstream, nothing is left behind.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { APITimeoutError, APIUserAbortError, Gateway } from "lyss";

import { Upstream, open, say, until } from "./world.mjs";

let upstream: Upstream;
let gw: Gateway;
before(async () => {
  upstream = await Upstream.start();
  gw = await open(upstream);
});
after(async () => {
  await gw.close();
  await upstream[Symbol.asyncDispose]();
});

const REPEAT = 50;
const chat = (order: string, options = {}) => gw.chat.completions.create({ model: "m", messages: say(order) }, options);
const stream = (order: string, options = {}) => gw.chat.completions.create({ model: "m", messages: say(order), stream: true }, options);

test("a signal that is aborted already", async () => {
  const calls = upstream.calls;
  const reason = new Error("why");
  await assert.rejects(chat("answer", { signal: AbortSignal.abort(reason) }), (error: Error) => error instanceof APIUserAbortError && error.cause === reason);
  assert.equal(upstream.calls, calls);
});

test("the caller's own onabort is called, and stays", async () => {
  const controller = new AbortController();
  let heard = 0;
  controller.signal.onabort = () => heard++;
  const running = chat("hang", { signal: controller.signal });
  await until(() => upstream.open === 1, "the call is upstream");
  controller.abort();
  await assert.rejects(running, APIUserAbortError);
  assert.equal(heard, 1);
});

test("a signal that outlives its calls keeps no listener", async () => {
  const { signal } = new AbortController();
  for (let at = 0; at < 20; at++) {
    await chat("answer", { signal });
    for await (const _ of await stream("answer", { signal }));
    for await (const _ of await stream("drip", { signal })) break;
  }
  await until(() => upstream.open === 1, "all but the call of before, whose answer the gateway still awaits, have ended");
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("an aborted stream is cancelled upstream, 50 times", async () => {
  for (let at = 0; at < REPEAT; at++) {
    const { left, calls } = upstream;
    const controller = new AbortController();
    const { signal } = controller;
    const reading = (async () => {
      for await (const _ of await stream("drip", { signal }));
    })();
    await until(() => upstream.calls > calls, "the stream is upstream");
    controller.abort();
    const begun = performance.now();
    await assert.rejects(reading, APIUserAbortError);
    await until(() => upstream.left > left, "cancelled upstream", 2000);
    assert.ok(performance.now() - begun < 1000);
  }
});

test("leaving a loop cancels, 50 times", async () => {
  for (let at = 0; at < REPEAT; at++) {
    const left = upstream.left;
    for await (const _ of await stream("drip")) break;
    await until(() => upstream.left > left, "cancelled upstream", 2000);
  }
});

test("abort() and controller end a loop quietly", async () => {
  for (const end of [(s: Awaited<ReturnType<typeof stream>>) => s.abort(), (s: Awaited<ReturnType<typeof stream>>) => s.controller.abort()]) {
    const drip = await stream("drip");
    let chunks = 0;
    for await (const _ of drip) if (++chunks === 3) setTimeout(() => end(drip), 5);
    assert.ok(chunks >= 3 && chunks < 1000);
  }
  {
    const left = upstream.left;
    {
      await using _ = await stream("drip");
    }
    await until(() => upstream.left > left, "cancelled upstream", 2000);
  }
});

test("a timeout bounds the answer, not the reading of a stream", async () => {
  const begun = performance.now();
  await assert.rejects(chat("hang", { timeout: 50 }), APITimeoutError);
  assert.ok(performance.now() - begun < 1000);
  const drip = await stream("drip", { timeout: 100 });
  const end = Date.now() + 300;
  for await (const _ of drip) if (Date.now() > end) break;
  assert.ok(Date.now() >= end);
});

test("a forgotten stream is collected, and its call ends, 50 times", async () => {
  assert.ok(globalThis.gc, "run with --expose-gc");
  const { signal } = new AbortController();
  const left = upstream.left;
  const forget = async () => {
    const iterator = (await stream("drip", { signal }))[Symbol.asyncIterator]();
    await iterator.next();
  };
  for (let at = 0; at < REPEAT; at++) await forget();
  await until(async () => {
    globalThis.gc!();
    await sleep(10);
    return upstream.left >= left + REPEAT && getEventListeners(signal, "abort").length === 0;
  }, "all streams are collected, and what listened for them");
});

test("streams are read while everything is being collected, and memory does not grow", async () => {
  const collecting = setInterval(() => globalThis.gc!(), 3);
  const read = async () => {
    for await (const _ of await gw.chat.completions.create({ model: "simulated/echo", messages: say("w ".repeat(300)), stream: true }));
  };
  await Promise.all(Array.from({ length: 8 }, read));
  clearInterval(collecting);
  globalThis.gc!();
  const before = process.memoryUsage().rss;
  for (let at = 0; at < 30; at++) await Promise.all(Array.from({ length: 8 }, read));
  globalThis.gc!();
  const grown = (process.memoryUsage().rss - before) / 2 ** 20;
  assert.ok(grown < 60, `${grown} MiB more after 240 streams of 300 chunks`);
});
