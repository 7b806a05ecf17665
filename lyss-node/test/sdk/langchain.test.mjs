// LangChain on gw.fetch.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ChatPromptTemplate } from "@langchain/core/prompts";
import { StringOutputParser } from "@langchain/core/output_parsers";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { Gateway } from "lyss";
import { z } from "zod";

const dir = mkdtempSync(join(tmpdir(), "lyss-sdk-"));
let gw;
let chat;

before(async () => {
  gw = await Gateway.open({ data: { dir }, providers: { simulated: { options: { directives: true } } }, routing: { max_retries: 0, breaker: { enabled: false } } });
  chat = (options = {}) => new ChatOpenAI({ model: "simulated/echo", apiKey: "-", maxRetries: 0, configuration: { baseURL: "http://lyss/v1", fetch: gw.fetch }, ...options });
});
after(async () => {
  await gw.close();
  rmSync(dir, { recursive: true, force: true });
});

test("a whole answer, and its usage", async () => {
  const answer = await chat().invoke("one two three");
  assert.equal(answer.content, "one two three");
  assert.equal(answer.usage_metadata.output_tokens, 3);
});

test("a chain, streamed", async () => {
  const chain = ChatPromptTemplate.fromTemplate("say {what}").pipe(chat()).pipe(new StringOutputParser());
  const pieces = [];
  for await (const piece of await chain.stream({ what: "it again" })) pieces.push(piece);
  assert.equal(pieces.join(""), "say it again");
  assert.ok(pieces.length > 1);
});

test("many at once", async () => {
  const answers = await chat().batch(["a", "b", "c"]);
  assert.deepEqual(answers.map((answer) => answer.content), ["a", "b", "c"]);
});

test("a tool, and structured output", async () => {
  const weather = { type: "function", function: { name: "weather", description: "weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } };
  const { tool_calls } = await chat().bindTools([weather], { tool_choice: "weather" }).invoke("x");
  assert.deepEqual([tool_calls[0].name, "city" in tool_calls[0].args], ["weather", true]);
  const person = await chat().withStructuredOutput(z.object({ name: z.string(), age: z.number() }), { name: "person", method: "functionCalling" }).invoke("x");
  assert.deepEqual([typeof person.name, typeof person.age], ["string", "number"]);
});

test("embeddings", async () => {
  const embeddings = new OpenAIEmbeddings({ model: "simulated/embed", apiKey: "-", maxRetries: 0, configuration: { baseURL: "http://lyss/v1", fetch: gw.fetch } });
  assert.equal((await embeddings.embedDocuments(["a", "b"])).length, 2);
  assert.ok((await embeddings.embedQuery("a")).every(Number.isFinite));
});

test("a signal cancels, and errors say what they are", async () => {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 50);
  const begun = Date.now();
  await assert.rejects(chat().invoke("a [[stall:10000]]", { signal: controller.signal }));
  assert.ok(Date.now() - begun < 3000);
  await assert.rejects(chat({ model: "nothing" }).invoke("x"), (error) => error.status === 404 && error.code === "model_not_found");
});
