// The official `openai` package on gw.fetch.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Gateway } from "lyss";
import OpenAI from "openai";

const dir = mkdtempSync(join(tmpdir(), "lyss-sdk-"));
const model = "simulated/echo";
const messages = [{ role: "user", content: "one two three" }];
let gw;
let client;

before(async () => {
  gw = await Gateway.open({ data: { dir }, providers: { simulated: { options: { directives: true } } }, routing: { max_retries: 0, breaker: { enabled: false } } });
  client = new OpenAI({ apiKey: "-", baseURL: "http://lyss/v1", fetch: gw.fetch, maxRetries: 0 });
});
after(async () => {
  await gw.close();
  rmSync(dir, { recursive: true, force: true });
});

test("a whole answer, with its response", async () => {
  const { data, response, request_id } = await client.chat.completions.create({ model, messages }).withResponse();
  assert.equal(data.choices[0].message.content, "one two three");
  assert.equal(response.headers.get("x-lyss-provider"), "simulated");
  assert.equal(request_id, data._request_id);
});

test("a stream, with its usage", async () => {
  const stream = await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, "one two three");
  assert.equal(usage.completion_tokens, 3);
});

test("the helper of streams, and a tool", async () => {
  const final = await client.chat.completions.stream({ model, messages }).finalContent();
  assert.equal(final, "one two three");
  const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }];
  const answer = await client.chat.completions.create({ model, messages, tools, tool_choice: { type: "function", function: { name: "weather" } } });
  assert.equal(answer.choices[0].message.tool_calls[0].function.name, "weather");
  assert.ok("city" in JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments));
});

test("embeddings in the SDK's own encoding, models, pages", async () => {
  const list = await client.embeddings.create({ model: "simulated/embed", input: ["a", "b"] });
  assert.equal(list.data.length, 2);
  assert.ok(list.data[0].embedding.every(Number.isFinite));
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.ok(ids.includes(model));
  assert.equal((await client.models.retrieve(model)).id, model);
});

test("errors are the SDK's own", async () => {
  const error = await client.chat.completions.create({ model: "nothing", messages }).catch((error) => error);
  assert.ok(error instanceof OpenAI.NotFoundError);
  assert.equal(error.code, "model_not_found");
  assert.ok(error.requestID);
  const cut = await client.chat.completions.create({ model, messages: [{ role: "user", content: "a b c d [[cut:2]]" }], stream: true });
  await assert.rejects(async () => {
    for await (const _ of cut);
  }, OpenAI.APIError);
});

test("retries are the SDK's own, and are told not to", async () => {
  let calls = 0;
  const counting = new OpenAI({ apiKey: "-", baseURL: "http://lyss/v1", maxRetries: 2, fetch: (...args) => (calls++, gw.fetch(...args)) });
  await assert.rejects(counting.chat.completions.create({ model, messages: [{ role: "user", content: "[[status:500]]" }] }), OpenAI.InternalServerError);
  assert.equal(calls, 1);
});

test("signals and controllers cancel", async () => {
  const controller = new AbortController();
  controller.abort();
  await assert.rejects(client.chat.completions.create({ model, messages }, { signal: controller.signal }), OpenAI.APIUserAbortError);
  const stream = await client.chat.completions.create({ model, messages: [{ role: "user", content: "a [[stall:5000]]" }], stream: true });
  setTimeout(() => stream.controller.abort(), 50);
  const begun = Date.now();
  for await (const _ of stream);
  assert.ok(Date.now() - begun < 2000);
  const late = client.chat.completions.create({ model, messages: [{ role: "user", content: "a [[stall:5000]]" }] }, { timeout: 100 });
  await assert.rejects(late, OpenAI.APIConnectionTimeoutError);
});

test("as the holder of a key, whatever the SDK sends", async () => {
  const { key } = await gw.admin.keys.create({ user_id: "kim", models: ["simulated/embed"] });
  const kim = new OpenAI({ apiKey: "not-it", baseURL: "http://lyss/v1", fetch: gw.withOptions({ apiKey: key }).fetch, maxRetries: 0 });
  await assert.rejects(kim.chat.completions.create({ model, messages }), OpenAI.PermissionDeniedError);
  await kim.embeddings.create({ model: "simulated/embed", input: "x" });
  const nobody = new OpenAI({ apiKey: "-", baseURL: "http://lyss/v1", fetch: gw.withOptions({ apiKey: "lyss_AAAAAAAAAAAA_wrong" }).fetch, maxRetries: 0 });
  await assert.rejects(nobody.models.list(), OpenAI.AuthenticationError);
});
