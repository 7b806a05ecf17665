// gw.fetch as a fetch: what it takes and what it gives.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Gateway } from "lyss";

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

const URL_ = "http://lyss/v1/chat/completions";
const text = JSON.stringify({ model: "m", messages: say("answer") });
const json = { "content-type": "application/json" };

test("every form of request", async () => {
  const bytes = new TextEncoder().encode(text);
  const stream = () => new Blob([bytes]).stream();
  const inits: RequestInit[] = [
    { method: "post", body: text, headers: json },
    { method: "POST", body: bytes, headers: new Headers(json) },
    { method: "POST", body: bytes.buffer as ArrayBuffer, headers: [["Content-Type", "application/json"]] },
    { method: "POST", body: new Blob([bytes]), headers: json },
    { method: "POST", body: stream(), headers: json, duplex: "half" } as RequestInit,
  ];
  const responses = [
    ...inits.map((init) => gw.fetch(URL_, init)),
    gw.fetch(new URL(URL_), inits[0]),
    gw.fetch(new Request(URL_, { method: "POST", body: text, headers: json })),
    gw.fetch(new Request(URL_), { method: "POST", body: text, headers: json }),
    gw.fetch("/v1/chat/completions", inits[0]),
    gw.fetch("https://any.host:1/api/v1/chat/completions", inits[0]),
  ];
  for (const response of await Promise.all(responses)) {
    assert.ok(response instanceof Response);
    assert.deepEqual([response.status, response.ok, response.headers.get("x-lyss-provider")], [200, true, "up"]);
    assert.equal(((await response.json()) as { choices: { message: { content: string } }[] }).choices[0]?.message.content, "answer");
  }
});

test("answers without a body, and errors, are answers", async () => {
  const gone = await gw.fetch("http://lyss/v1/sessions/none?user_id=u", { method: "DELETE" });
  assert.deepEqual([gone.status, gone.body], [204, null]);
  const head = await gw.fetch("http://lyss/v1/models", { method: "HEAD" });
  assert.deepEqual([head.status, await head.text()], [200, ""]);
  const wrong = await gw.fetch(URL_, { method: "POST", body: "{", headers: json });
  assert.deepEqual([wrong.status, ((await wrong.json()) as { error: { code: string } }).error.code], [400, "invalid_json"]);
  const form = await gw.fetch(URL_, { method: "POST", body: new URLSearchParams({ a: "b" }), headers: { "content-type": "application/x-www-form-urlencoded" } });
  assert.equal(form.status, 415);
});

test("a stream is bytes as they come", async () => {
  const response = await gw.fetch(URL_, { method: "POST", headers: json, body: JSON.stringify({ model: "m", messages: say("answer"), stream: true }) });
  assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
  const body = await response.text();
  assert.ok(body.startsWith("data: {") && body.endsWith("data: [DONE]\n\n"), body);
});

test("a body that is cancelled, and one that is forgotten, end upstream", async () => {
  const drip = () => gw.fetch(URL_, { method: "POST", headers: json, body: JSON.stringify({ model: "m", messages: say("drip"), stream: true }) });
  for (let at = 0; at < 50; at++) {
    const { left } = upstream;
    const reader = (await drip()).body!.getReader();
    await reader.read();
    await reader.cancel();
    await until(() => upstream.left > left, "cancelled upstream", 2000);
  }
  const { left } = upstream;
  await (async () => void (await (await drip()).body!.getReader().read()))();
  await until(() => (globalThis.gc!(), upstream.left > left), "collected");
});

test("signals reject with their own reason", async () => {
  const post = (order: string, signal: AbortSignal, stream = false) => gw.fetch(URL_, { method: "POST", headers: json, body: JSON.stringify({ model: "m", messages: say(order), stream }), signal });
  const reason = { any: "thing" };
  await assert.rejects(post("answer", AbortSignal.abort(reason)), (error) => error === reason);
  await assert.rejects(post("hang", AbortSignal.timeout(50)), { name: "TimeoutError" });
  const controller = new AbortController();
  const response = await post("drip", controller.signal, true);
  const reading = response.text();
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(reading, { name: "AbortError" });
});

test("the user and the key of withOptions hold here, too", async () => {
  const ann = gw.withOptions({ userId: "ann" });
  const { headers } = await ann.fetch(URL_, { method: "POST", headers: json, body: JSON.stringify({ model: "m", messages: say("answer"), session_id: "new" }) });
  const id = headers.get("x-lyss-session-id")!;
  assert.equal((await ann.fetch(`http://lyss/v1/sessions/${id}`)).status, 200);
  assert.equal((await gw.withOptions({ userId: "bob" }).fetch(`http://lyss/v1/sessions/${id}`)).status, 404);
  const nobody = await gw.withOptions({ apiKey: "lyss_none_at_all" }).fetch("http://lyss/v1/models", { headers: { authorization: "Bearer ignored" } });
  assert.equal(nobody.status, 401);
});
