// A gateway that is connected to a service: the same surface, over a socket.

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { after, before, test } from "node:test";

import { APIConnectionError, ConfigError, Gateway } from "lyss";

import { Upstream, config, directory, say, until } from "./world.mjs";

const SERVICE = new URL("../../../target/debug/lyss", import.meta.url).pathname;
let upstream: Upstream;
let service: ChildProcess;
let url: string;
let gw: Gateway;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

before(async () => {
  upstream = await Upstream.start();
  const dir = directory();
  const [http, grpc, metrics] = [await freePort(), await freePort(), await freePort()];
  const server = { http: { addr: `127.0.0.1:${http}` }, grpc: { addr: `127.0.0.1:${grpc}` } };
  const all = { ...config(`${dir}/data`, upstream), server, auth: { mode: "keys", admin_key: "the-admin-key-of-this-test" }, monitoring: { prometheus: { enabled: false, addr: `127.0.0.1:${metrics}` } } };
  writeFileSync(`${dir}/gateway.json`, JSON.stringify(all));
  service = spawn(process.env["LYSS_TEST_SERVICE"] ?? SERVICE, ["serve", "--config", `${dir}/gateway.json`], { stdio: "ignore" });
  url = `http://127.0.0.1:${http}`;
  gw = Gateway.connect(url, { apiKey: "the-admin-key-of-this-test", userId: "ops" });
  await until(() => gw.ready().then(() => true, () => false), "the service is up", 20_000);
});
after(async () => {
  await gw.close();
  service.kill();
  await upstream[Symbol.asyncDispose]();
});

test("answers, streams and what is said about them", async () => {
  const answer = await gw.chat.completions.create({ model: "m", messages: say("answer") });
  assert.equal(answer.choices[0]?.message.content, "answer");
  assert.deepEqual([answer.meta.provider, answer.meta.attempts], ["up", 1]);
  await until(async () => (await gw.requests.list()).data.length === 1, "the row");
  assert.equal((await gw.requests.retrieve(answer.meta.requestId!)).status, "success");
  let text = "";
  for await (const chunk of await gw.chat.completions.create({ model: "m", messages: say("answer"), stream: true })) text += chunk.choices[0]?.delta.content ?? "";
  assert.equal(text, "0 1 2 ");
});

test("keys of others, and sessions", async () => {
  const { key } = await gw.admin.keys.create({ user_id: "ann" });
  const ann = Gateway.connect(`${url}/v1`, { apiKey: key });
  const { meta } = await ann.chat.completions.create({ model: "m", messages: say("answer"), session_id: "new" });
  assert.equal((await ann.sessions.retrieve(meta.sessionId!)).message_count, 2);
  await assert.rejects(ann.admin.keys.list(), { name: "PermissionDeniedError", status: 403 });
  await assert.rejects(gw.withOptions({ apiKey: "" }).models.list(), { name: "AuthenticationError", code: "missing_api_key" });
  const same = gw.withOptions({ apiKey: key });
  assert.equal((await same.sessions.list({ user_id: "ann" })).data.length, 1);
  await ann.close();
});

test("gw.fetch goes to the service, too", async () => {
  const response = await gw.fetch("http://lyss/v1/models");
  assert.ok(((await response.json()) as { data: { id: string }[] }).data.some((model) => model.id === "simulated/echo"));
});

test("what is left is cancelled behind the service", async () => {
  for (let at = 0; at < 10; at++) {
    const { left } = upstream;
    for await (const _ of await gw.chat.completions.create({ model: "m", messages: say("drip"), stream: true })) break;
    await until(() => upstream.left > left, "cancelled upstream", 3000);
  }
});

test("providers run in the service", () => {
  assert.throws(() => gw.registerProvider("mine", { chat: () => "x" }), /service/);
});

test("an address that is none, and a service that is away", async () => {
  assert.throws(() => Gateway.connect("not a url"), ConfigError);
  const away = Gateway.connect(`http://127.0.0.1:${await freePort()}`);
  await assert.rejects(away.models.list(), (error: unknown) => error instanceof APIConnectionError && error.code === "service_unreachable" && error.shouldRetry);
});
