// What goes wrong, and as what it is thrown.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import * as lyss from "lyss";
import { APIError, Gateway, LyssError } from "lyss";

import { Upstream, config, directory, open, say } from "./world.mjs";

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

async function failure(promise: Promise<unknown>): Promise<APIError> {
  const error = await promise.then(() => undefined, (error: unknown) => error);
  assert.ok(error instanceof APIError && error instanceof LyssError && error instanceof Error, String(error));
  return error;
}

test("an error has a class, a status, a code and the request's id", async () => {
  const error = await failure(gw.chat.completions.create({ model: "nothing", messages: say("x") }));
  assert.ok(error instanceof lyss.NotFoundError);
  const { name, status, code, type, param, shouldRetry, retryAfter } = error;
  assert.deepEqual(
    { name, status, code, type, param, shouldRetry, retryAfter },
    { name: "NotFoundError", status: 404, code: "model_not_found", type: "not_found_error", param: "model", shouldRetry: false, retryAfter: null },
  );
  assert.match(error.message, /no provider serves the model `nothing`/);
  assert.equal(error.requestId, error.meta.requestId);
  assert.equal(error.error?.code, "model_not_found");
});

test("mistakes are named", async () => {
  // @ts-expect-error: messages are required
  assert.equal((await failure(gw.chat.completions.create({ model: "m" }))).param, "messages");
  const raw = await failure(gw.request("POST", "/v1/chat/completions", { body: "{nonsense" }) as Promise<unknown>);
  assert.deepEqual([raw.name, raw.code], ["BadRequestError", "invalid_json"]);
  assert.equal((await failure(gw.request("GET", "/v1/nothing"))).code, "unknown_path");
  assert.equal((await failure(gw.request("DELETE", "/v1/models"))).status, 405);
  await assert.rejects(gw.request("GET", "no path at all"), LyssError);
  await assert.rejects(gw.models.list({ headers: { "bad header": "x" } }), /the header `bad header` cannot be sent/);
  await assert.rejects(async () => gw.sessions.retrieve(""), TypeError);
  // @ts-expect-error: a text is no request
  await assert.rejects(gw.chat.completions.create("hi"), /takes an object, not string/);
});

test("what a provider says is passed on", async () => {
  const refused = await failure(gw.chat.completions.create({ model: "m", messages: say("refuse") }));
  assert.deepEqual([refused.name, refused.code, refused.param, refused.message], ["BadRequestError", "bad_temperature", "temperature", "temperature is too high"]);
  // On a gateway of its own: the provider is left alone afterwards.
  await using other = await open(upstream);
  const limited = await failure(other.chat.completions.create({ model: "m", messages: say("limit") }));
  assert.ok(limited instanceof lyss.RateLimitError);
  assert.equal(limited.retryAfter, 7);
});

test("a stream that breaks off throws", async () => {
  const stream = await gw.chat.completions.create({ model: "m", messages: say("cut"), stream: true });
  let chunks = 0;
  const error = await failure((async () => {
    for await (const _ of stream) chunks++;
  })());
  assert.ok(chunks > 0);
  assert.deepEqual([error.name, error.status, error.code], ["InternalServerError", 502, "upstream_incomplete"]);
  assert.equal(error.requestId, stream.meta.requestId);
});

test("a configuration is refused with everything that is wrong with it", async () => {
  const wrong = { ...config(directory()), routing: { load_balancr: "x" }, sesion: {} };
  const error = await Gateway.open(wrong).then(() => assert.fail(), (error: unknown) => error);
  assert.ok(error instanceof lyss.ConfigError && error instanceof LyssError);
  assert.equal(error.diagnostics.length, 2);
  assert.match(error.message, /did you mean load_balancer\?/);
  await assert.rejects(Gateway.open("/nowhere/gateway.yaml"), lyss.ConfigError);
  await assert.rejects(Gateway.open({}, { dataDir: "/tmp" }), TypeError);
});

test("a closed gateway says so", async () => {
  const other = await open();
  await other.close();
  await other.close();
  const error = await failure(other.models.list());
  assert.deepEqual([error.status, error.code], [503, "shutting_down"]);
});

test("closing ends what still runs", async () => {
  const other = await open(upstream);
  const running = failure(other.chat.completions.create({ model: "m", messages: say("hang") }));
  const stream = await other.chat.completions.create({ model: "m", messages: say("hang"), stream: true });
  const read = failure((async () => {
    for await (const _ of stream);
  })());
  // Nobody waits for this one when the gateway ends.
  const unread = await other.chat.completions.create({ model: "m", messages: say("hang"), stream: true });
  const begun = Date.now();
  await other.close({ timeout: 100 });
  assert.ok(Date.now() - begun < 3000, `${Date.now() - begun} ms`);
  assert.equal((await running).code, "shutting_down");
  assert.equal((await read).code, "shutting_down");
  assert.equal((await failure(unread[Symbol.asyncIterator]().next())).code, "shutting_down");
});

test("one copy of the package, however it is loaded", () => {
  const required = createRequire(import.meta.url)("lyss") as typeof lyss;
  assert.equal(required.Gateway, Gateway);
  assert.equal(required.APIError, APIError);
  for (const [name, value] of Object.entries(required)) assert.equal((lyss as Record<string, unknown>)[name], value, name);
});
