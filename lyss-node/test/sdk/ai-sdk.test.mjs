// The Vercel AI SDK on gw.fetch.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { Gateway } from "lyss";

const dir = mkdtempSync(join(tmpdir(), "lyss-sdk-"));
const prompt = "one two three";
let gw;
let lyss;

before(async () => {
  gw = await Gateway.open({ data: { dir }, providers: { simulated: { options: { directives: true } } }, routing: { max_retries: 0, breaker: { enabled: false } } });
  lyss = createOpenAICompatible({ name: "lyss", baseURL: "http://lyss/v1", fetch: gw.fetch, includeUsage: true, supportsStructuredOutputs: true });
});
after(async () => {
  await gw.close();
  rmSync(dir, { recursive: true, force: true });
});

test("a whole answer", async () => {
  const { text, usage, response } = await generateText({ model: lyss("simulated/echo"), prompt });
  assert.equal(text, prompt);
  assert.equal(usage.outputTokens, 3);
  assert.equal(response.headers["x-lyss-provider"], "simulated");
});

test("a stream", async () => {
  const result = streamText({ model: lyss("simulated/echo"), prompt });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  assert.equal(pieces.join(""), prompt);
  assert.ok(pieces.length > 1);
  assert.equal((await result.usage).outputTokens, 3);
  assert.equal(await result.finishReason, "stop");
});

test("a stream that is aborted ends", async () => {
  const controller = new AbortController();
  const result = streamText({ model: lyss("simulated/echo"), prompt: "a b [[stall:10000]]", abortSignal: controller.signal });
  setTimeout(() => controller.abort(), 50);
  const begun = Date.now();
  const parts = [];
  for await (const part of result.fullStream) parts.push(part.type);
  assert.ok(parts.includes("abort"), parts.join());
  assert.ok(Date.now() - begun < 3000);
});

test("a tool that is called, and its result", async () => {
  const inputSchema = jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] });
  let asked;
  const weather = tool({ description: "weather", inputSchema, execute: (input) => ((asked = input), { degrees: 21 }) });
  const { steps } = await generateText({ model: lyss("simulated/echo"), prompt, tools: { weather }, toolChoice: { type: "tool", toolName: "weather" }, stopWhen: stepCountIs(1) });
  assert.ok("city" in asked);
  assert.deepEqual(steps[0].toolResults[0].output, { degrees: 21 });
});

test("an object after a schema", async () => {
  const schema = jsonSchema({ type: "object", properties: { name: { type: "string" }, age: { type: "integer" } }, required: ["name", "age"], additionalProperties: false });
  const { output } = await generateText({ model: lyss("simulated/echo"), prompt, output: Output.object({ schema }) });
  assert.deepEqual([typeof output.name, typeof output.age], ["string", "number"]);
});

test("embeddings", async () => {
  const { embeddings } = await embedMany({ model: lyss.textEmbeddingModel("simulated/embed"), values: ["a", "b"] });
  assert.equal(embeddings.length, 2);
  assert.ok(embeddings[0].every(Number.isFinite));
});

test("errors say what they are", async () => {
  const error = await generateText({ model: lyss("nothing"), prompt, maxRetries: 0 }).catch((error) => error);
  assert.ok(APICallError.isInstance(error));
  assert.deepEqual([error.statusCode, error.isRetryable], [404, false]);
  assert.match(error.message, /no provider serves the model/);
});
