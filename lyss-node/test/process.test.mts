// Processes and threads: when they end, and what is left behind.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";

import { Gateway } from "lyss";

import { config, directory, say, until } from "./world.mjs";

const REPEAT = 50;

/** Runs a program that has `open()`, `say()` and `model`; gives how it ended, what it printed and how long it took. */
async function run(program: string, dir: string, ms = 10_000): Promise<{ code: number | null; out: string; err: string; ms: number }> {
  const prelude = `
    import { Gateway } from ${JSON.stringify(import.meta.resolve("lyss"))};
    const model = "simulated/echo";
    const say = (content) => [{ role: "user", content }];
    const open = () => Gateway.open(${JSON.stringify({ ...config(dir), providers: { simulated: { options: { directives: true } } } })});
  `;
  const begun = performance.now();
  const child = spawn(process.execPath, ["--expose-gc", "--input-type=module", "-e", prelude + program], { stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (err += data));
  const timer = setTimeout(() => child.kill("SIGKILL"), ms);
  const [code] = (await once(child, "close")) as [number | null];
  clearTimeout(timer);
  return { code, out, err, ms: performance.now() - begun };
}

/** Waits until the log of a directory has so many requests, and no more. */
async function logged(dir: string, count: number): Promise<void> {
  await using gw = await Gateway.open(config(dir));
  const rows = async () => (await gw.requests.list({ limit: 1000 })).data.length;
  await until(async () => (await rows()) >= count, `${count} rows`);
  assert.equal(await rows(), count);
}

const CALL = `const gw = await open();
  await gw.chat.completions.create({ model, messages: say("hi") });`;

for (const [what, program] of Object.entries({
  "is closed": `${CALL} await gw.close();`,
  "is not closed": CALL,
  "is forgotten, and collected": `await (async () => { ${CALL} })(); gc(); await new Promise((go) => setTimeout(go, 100)); gc();`,
  "has a stream that nobody reads on": `${CALL} await gw.chat.completions.create({ model, messages: say("a [[stall:60000]]"), stream: true });`,
  "is left by process.exit": `${CALL} process.exit(0);`,
})) {
  test(`a process ends when its gateway ${what}, and the log is whole`, async () => {
    const dir = directory();
    const ended = await run(program, dir);
    assert.deepEqual([ended.code, ended.err], [0, ""]);
    assert.ok(ended.ms < 6000, `${ended.ms} ms`);
    await logged(dir, what.includes("stream") ? 2 : 1);
  });
}

test("a process waits for a call that is awaited", async () => {
  const ended = await run(`const gw = await open();
    gw.chat.completions.create({ model, messages: say("late [[stall:500]]") }).then((answer) => console.log(answer.choices[0].message.content));`, directory());
  assert.deepEqual([ended.code, ended.out.trim()], [0, "late"]);
});

test("a process that is ended in the middle of everything ends, 50 times", async () => {
  const dir = directory();
  for (let at = 0; at < REPEAT; at++) {
    const ended = await run(`const gw = await open();
      gw.registerProvider("js", { async *chatStream() { for (;;) { yield "x"; await new Promise((go) => setTimeout(go, 1)); } } });
      for (const name of [model, "js/x"]) (async () => { for await (const _ of await gw.chat.completions.create({ model: name, messages: say("w ".repeat(500)), stream: true })); })().catch(() => {});
      gw.chat.completions.create({ model, messages: say("[[stall:5000]]") }).catch(() => {});
      setTimeout(() => ${at % 2 ? "process.exit(7)" : "(() => { process.exitCode = 7; process.reallyExit(7); })()"}, ${20 + at});`, dir);
    assert.deepEqual([ended.code, ended.err], [7, ""], `run ${at}`);
  }
});

const WORKER = `
  const { parentPort, workerData } = require("node:worker_threads");
  const { Gateway } = require(workerData.lyss);
  (async () => {
    const gw = await Gateway.open(workerData.config);
    gw.registerProvider("js", { chat: (request) => "worker " + request.messages[0].content });
    const ask = async (model, content) => (await gw.chat.completions.create({ model, messages: [{ role: "user", content }] })).choices[0].message.content;
    const answers = await Promise.all([ask("simulated/echo", "a"), ask("js/x", "b")]);
    parentPort.postMessage(answers);
    if (workerData.how === "busy") for await (const _ of await gw.chat.completions.create({ model: "simulated/echo", messages: [{ role: "user", content: "w ".repeat(5000) }], stream: true }));
    if (workerData.how === "close") await gw.close();
  })();
`;

test("workers have gateways of their own, and end, 50 times", async () => {
  const lyss = new URL(import.meta.resolve("lyss")).pathname.replace(/mjs$/, "js");
  const main = await Gateway.open(config(directory()));
  for (let at = 0; at < REPEAT; at++) {
    const how = ["close", "leave", "terminate", "busy"][at % 4]!;
    const worker = new Worker(WORKER, { eval: true, workerData: { lyss, config: config(directory()), how } });
    // It may end in the same turn in which its message comes.
    const exited = once(worker, "exit");
    const [answers] = (await once(worker, "message")) as [string[]];
    assert.deepEqual(answers, ["a", "worker b"]);
    if (how === "terminate" || how === "busy") void worker.terminate();
    await exited;
  }
  assert.equal((await main.chat.completions.create({ model: "simulated/echo", messages: say("still here") })).choices[0]?.message.content, "still here");
  await main.close();
});

test("gateways are opened and closed, and forgotten, 50 times", async () => {
  const dir = directory();
  for (let at = 0; at < REPEAT; at++) {
    const gw = await Gateway.open(config(dir));
    await gw.chat.completions.create({ model: "simulated/echo", messages: say("x") });
    if (at % 2) await gw.close();
    else globalThis.gc?.();
  }
  await logged(dir, REPEAT);
});
