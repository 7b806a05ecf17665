// Every resource, on a gateway in this process.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Gateway, Stream, type ChatCompletionChunk } from "lyss";

import { Upstream, directory, open, say, until } from "./world.mjs";

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

test("a whole answer, and what the gateway says about it", async () => {
  const answer = await gw.chat.completions.create({ model: "m", messages: say("answer"), temperature: 0.5, made_up: [1] });
  assert.equal(answer.choices[0]?.message.content, "answer");
  assert.equal(answer.usage?.total_tokens, 4);
  assert.deepEqual([answer.meta.provider, answer.meta.upstreamModel], ["up", "m"]);
  assert.equal(answer.meta.attempts, 1);
  assert.equal(answer._request_id, answer.meta.requestId);
  assert.match(answer.meta.requestId!, /^[0-9a-f-]{36}$/);
  assert.equal(answer.meta.headers.get("content-type"), "application/json");
  assert.ok(!JSON.stringify(answer).includes("meta"), "the answer itself is the provider's");
  const { temperature, made_up } = upstream.bodies.at(-1)!;
  assert.deepEqual({ temperature, made_up }, { temperature: 0.5, made_up: [1] });
});

test("an answer with its response, whole and streamed", async () => {
  const { data, response, request_id } = await gw.chat.completions.create({ model: "m", messages: say("answer") }).withResponse();
  assert.equal(data.choices[0]?.message.content, "answer");
  assert.deepEqual([response.status, response.headers.get("x-lyss-provider"), request_id], [200, "up", data._request_id]);
  const streamed = await gw.chat.completions.create({ model: "m", messages: say("answer"), stream: true }).withResponse();
  assert.equal(streamed.response.headers.get("x-request-id"), streamed.request_id);
  for await (const _ of streamed.data);
  const promise = gw.models.list();
  assert.ok(promise instanceof Promise && !("withResponse" in promise.then(() => 1)));
  await assert.rejects(gw.models.retrieve("none").withResponse(), { status: 404 });
});

test("texts of every kind arrive as they were sent", async () => {
  const text = 'h\u00e9llo \u{1f600} \u4f60\u597d "quoted" \\ \n\t \u2028 end';
  const messages = say(text);
  const answer = await gw.chat.completions.create({ model: "simulated/echo", messages });
  assert.equal(answer.choices[0]?.message.content, text);
  let streamed = "";
  for await (const chunk of await gw.chat.completions.create({ model: "simulated/echo", messages, stream: true })) {
    streamed += chunk.choices[0]?.delta.content ?? "";
  }
  assert.equal(streamed, text);
});

test("a stream is iterated once, to its end", async () => {
  const stream = await gw.chat.completions.create({ model: "m", messages: say("answer"), stream: true, stream_options: { include_usage: true } });
  assert.ok(stream instanceof Stream);
  assert.equal(stream.meta.provider, "up");
  const chunks: ChatCompletionChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), "0 1 2 ");
  assert.throws(() => stream[Symbol.asyncIterator](), /read already/);
});

test("a stream as a web stream", async () => {
  const stream = await gw.chat.completions.create({ model: "m", messages: say("answer"), stream: true });
  const lines = (await new Response(stream.toReadableStream()).text()).trim().split("\n");
  assert.equal(lines.length, 5);
  assert.equal((JSON.parse(lines[1]!) as ChatCompletionChunk).choices[0]?.delta.content, "0 ");
});

test("embeddings, models, tokens", async () => {
  const list = await gw.embeddings.create({ model: "simulated/embed", input: ["a", "b"], dimensions: 8 });
  assert.deepEqual(list.data.map((entry) => entry.embedding.length), [8, 8]);
  const models = await gw.models.list();
  assert.ok(models.data.some((model) => model.id === "simulated/echo"));
  assert.equal((await gw.models.retrieve("simulated/echo")).provider, "simulated");
  const count = await gw.tokens.count({ model: "gpt-4o", messages: say("Hello there") });
  assert.ok(count.input_tokens > 2);
});

test("a conversation is kept", async () => {
  const first = await gw.chat.completions.create({ model: "m", messages: say("answer"), session_id: "new", user_id: "ann" });
  const id = first.meta.sessionId!;
  await gw.chat.completions.create({ model: "m", messages: say("again"), session_id: id, user_id: "ann" });
  const sent = upstream.bodies.at(-1) as { messages: { content: string }[]; session_id?: string };
  assert.deepEqual(sent.messages.map((message) => message.content), ["answer", "answer", "again"]);
  assert.equal(sent.session_id, undefined);
  const ann = gw.withOptions({ userId: "ann" });
  assert.equal((await ann.sessions.retrieve(id)).message_count, 4);
  assert.equal((await gw.sessions.messages(id, { user_id: "ann", limit: 3 })).data.length, 3);
  assert.equal((await ann.sessions.list()).data[0]?.id, id);
  await ann.sessions.delete(id);
  await assert.rejects(ann.sessions.retrieve(id), { status: 404, code: "session_not_found" });
  const made = await ann.sessions.create({ id: "with/odd id?", metadata: { a: 1 } });
  assert.deepEqual([made.user_id, made.metadata], ["ann", { a: 1 }]);
  assert.equal((await ann.sessions.retrieve("with/odd id?")).id, "with/odd id?");
});

test("the log and the totals", async () => {
  const eve = gw.withOptions({ userId: "eve" });
  const answer = await eve.chat.completions.create({ model: "m", messages: say("answer") });
  await until(async () => (await gw.requests.list({ user_id: "eve" })).data.length === 1, "the row");
  const row = await gw.requests.retrieve(answer.meta.requestId!);
  assert.deepEqual([row.user_id, row.status, row.input_tokens, row.usage_source], ["eve", "success", 3, "reported"]);
  assert.equal(row.decision?.attempts?.[0]?.provider_id, "up");
  const totals = await gw.usage({ by: ["user", "model"], user_id: "eve" });
  assert.deepEqual(totals.data.map(({ user, model, requests }) => [user, model, requests]), [["eve", "m", 1]]);
});

test("listings go on over their pages", async () => {
  const zoe = gw.withOptions({ userId: "zoe" });
  const ids = ["a", "b", "c", "d", "e"];
  for (const id of ids) await zoe.sessions.create({ id });
  const first = await zoe.sessions.list({ limit: 2 });
  assert.deepEqual([first.data.length, first.hasNextPage()], [2, true]);
  assert.equal((await first.getNextPage()).data.length, 2);
  const seen = new Set<string>();
  for await (const session of first) seen.add(session.id);
  assert.deepEqual([...seen].sort(), ids);
  assert.deepEqual(Object.keys(first), ["object", "data", "next_cursor"]);
});

test("administration, and calls as the holder of a key", async () => {
  const { key, id } = await gw.admin.keys.create({ user_id: "bob", name: "test", models: ["m"] });
  const bob = gw.withOptions({ apiKey: key });
  await bob.chat.completions.create({ model: "m", messages: say("answer") });
  await assert.rejects(bob.chat.completions.create({ model: "simulated/echo", messages: say("x") }), { status: 403, code: "model_not_allowed", name: "PermissionDeniedError" });
  await assert.rejects(bob.admin.keys.list(), { status: 403 });
  assert.equal((await gw.admin.keys.update(id, { name: "other" })).name, "other");
  await gw.admin.keys.delete(id);
  await until(() => bob.models.list().then(() => false, (error: { status?: number }) => error.status === 401), "the key is revoked");

  const rule = await gw.admin.routingRules.create({ model_name: "alias", provider_id: "up", upstream_model: "m" });
  await gw.chat.completions.create({ model: "alias", messages: say("answer") });
  await gw.admin.routingRules.update(rule.id, { model_name: "alias", provider_id: "simulated", upstream_model: "echo" });
  assert.equal((await gw.chat.completions.create({ model: "alias", messages: say("x") })).meta.provider, "simulated");
  await gw.admin.routingRules.delete(rule.id);

  const price = await gw.admin.prices.create({ model: "m", currency: "USD", input: "1", output: "2" });
  const budget = await gw.admin.budgets.create({ user: "poor", amount: "0", period: "total" });
  await assert.rejects(gw.chat.completions.create({ model: "m", messages: say("x"), user_id: "poor" }), { status: 402, code: "budget_exceeded", name: "BudgetExceededError" });
  await gw.admin.budgets.delete(budget.id!);
  await gw.admin.prices.delete(price.id);
  assert.ok((await gw.admin.providers.list()).data.some((provider) => provider.id === "up"));
});

test("an idempotency key gives the same answer", async () => {
  const make = () => gw.chat.completions.create({ model: "m", messages: say("answer"), user_id: "i" }, { idempotencyKey: "k-1" });
  const first = await make();
  const calls = upstream.calls;
  const second = await make();
  assert.deepEqual([first.meta.replayed, second.meta.replayed, upstream.calls], [false, true, calls]);
  assert.deepEqual({ ...second }, { ...first });
});

test("health, readiness, and any other path", async () => {
  assert.equal((await gw.health()).status.database, true);
  assert.equal((await gw.ready()).ready, true);
  const api = (await gw.request<{ openapi: string }>("GET", "/v1/openapi.json")) as { openapi: string };
  assert.match(api.openapi, /^3\./);
  const raw = (await gw.request("POST", "/v1/chat/completions", { body: '{"model":"simulated/echo","messages":[{"role":"user","content":"raw"}]}' })) as { model: string };
  assert.equal(raw.model, "echo");
});

test("a file as configuration, by path and by URL", async () => {
  const { writeFileSync } = await import("node:fs");
  const { pathToFileURL } = await import("node:url");
  const dir = directory();
  const file = `${dir}/gateway.yaml`;
  writeFileSync(file, `data: { dir: ${dir}/data }\nproviders: { simulated: {} }\n`);
  for (const config of [file, pathToFileURL(file)]) {
    await using other = await Gateway.open(config);
    assert.deepEqual((await other.models.list()).data.map((model) => model.provider), ["simulated", "simulated"]);
  }
});

test("without a configuration there is always the simulated provider", async () => {
  await using other = await Gateway.open(null, { dataDir: directory() });
  assert.ok((await other.models.list()).data.some((model) => model.id === "simulated/echo"));
});

test("gateways live side by side, and many calls at once", async () => {
  await using other = await open(upstream);
  const calls = Array.from({ length: 200 }, (_, at) =>
    (at % 2 ? gw : other).chat.completions.create({ model: "simulated/echo", messages: say(`call ${at}`) }),
  );
  const answers = await Promise.all(calls);
  answers.forEach((answer, at) => assert.equal(answer.choices[0]?.message.content, `call ${at}`));
});
