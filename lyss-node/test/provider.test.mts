// Providers written in JavaScript.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { APIError, Gateway, RateLimitError, type ChatCompletionCreateParams, type Provider } from "lyss";

import { open, say, until } from "./world.mjs";

let gw: Gateway;
before(async () => {
  gw = await open();
});
after(() => gw.close());

const ask = (model: string, content = "hello") => gw.chat.completions.create({ model, messages: say(content) });
async function read(model: string, content = "hello"): Promise<string> {
  let text = "";
  for await (const chunk of await gw.chat.completions.create({ model, messages: say(content), stream: true })) text += chunk.choices[0]?.delta.content ?? "";
  return text;
}

test("texts are answers", async () => {
  const seen: ChatCompletionCreateParams[] = [];
  gw.registerProvider("texts", {
    async chat(request) {
      seen.push(request);
      return `you said ${String(request.messages.at(-1)?.content)}`;
    },
    async *chatStream() {
      yield "one ";
      await sleep(5);
      yield "two";
    },
    embeddings: ({ input }) => (input as string[]).map((text) => [text.length, 0.5]),
  });
  const answer = await ask("texts/any");
  assert.equal(answer.choices[0]?.message.content, "you said hello");
  assert.equal(answer.meta.provider, "texts");
  assert.deepEqual([seen[0]?.model, seen[0]?.["session_id"]], ["any", undefined]);
  assert.equal(await read("texts/any"), "one two");
  const list = await gw.embeddings.create({ model: "texts/e", input: ["a", "bcd"] });
  assert.deepEqual(list.data.map((entry) => entry.embedding), [[1, 0.5], [3, 0.5]]);
});

test("one of the two is enough", async () => {
  gw.registerProvider("whole", { chat: () => "all at once" });
  assert.equal(await read("whole/x"), "all at once");
  gw.registerProvider("pieces", {
    *chatStream() {
      yield "a";
      yield { choices: [{ index: 0, delta: { content: "b" }, finish_reason: "length" }] };
    },
  });
  const answer = await ask("pieces/x");
  assert.deepEqual([answer.choices[0]?.message.content, answer.choices[0]?.finish_reason], ["ab", "length"]);
  await assert.rejects(gw.embeddings.create({ model: "pieces/x", input: "a" }), { status: 400 });
});

test("whole completions and chunks are passed on, and their usage is booked", async () => {
  const usage = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };
  const tool_calls = [{ id: "t", type: "function" as const, function: { name: "f", arguments: "{}" } }];
  gw.registerProvider("full", {
    chat: () => ({ id: "mine", choices: [{ index: 0, message: { role: "assistant", content: null, tool_calls }, finish_reason: "tool_calls" }], usage }),
  }, { models: ["full-model"] });
  const answer = await ask("full-model");
  assert.deepEqual([answer.id, answer.choices[0]?.message.tool_calls, answer.usage], ["mine", tool_calls, usage]);
  const deltas = [];
  for await (const chunk of await gw.chat.completions.create({ model: "full-model", messages: say("x"), stream: true })) deltas.push(chunk.choices[0]?.delta.tool_calls?.[0]?.function?.name);
  assert.ok(deltas.includes("f"));
  await until(async () => (await gw.requests.list({ model: "full-model" })).data.length === 2, "the rows");
  const rows = (await gw.requests.list({ model: "full-model" })).data;
  for (const row of rows) assert.deepEqual([row.input_tokens, row.output_tokens, row.usage_source, row.provider_id], [11, 7, "reported", "full"]);
});

test("thrown errors are what they are; others are named, and warned of", async () => {
  const warned: Error[] = [];
  const listen = (warning: Error) => warned.push(warning);
  process.on("warning", listen);
  const failing = (error: unknown): Provider => ({
    async chat() {
      throw error;
    },
    // eslint-disable-next-line require-yield
    async *chatStream() {
      throw error;
    },
  });
  class Odd extends Error {
    override name = "Odd";
  }
  gw.registerProvider("busy", failing(new RateLimitError(429, { message: "later", type: "rate_limit_error", code: "x" }, undefined, { "retry-after": "3" })));
  gw.registerProvider("strict", failing(new APIError(400, { message: "no such colour", param: "colour", code: "bad_colour" })));
  gw.registerProvider("odd", failing(new Odd("secret inside")));
  const busy = await ask("busy/x").catch((error: unknown) => error as APIError);
  assert.ok(busy instanceof RateLimitError);
  assert.equal(busy.retryAfter, 3);
  await assert.rejects(ask("strict/x"), { status: 400, code: "bad_colour", param: "colour", message: "no such colour" });
  for (const call of [() => ask("odd/x"), () => read("odd/x")]) {
    const odd = await call().then(() => assert.fail(), (error: unknown) => error as APIError);
    assert.deepEqual([odd.status, odd.code], [502, "upstream_error"]);
    assert.match(odd.message, /Odd/);
    assert.doesNotMatch(odd.message, /secret/);
  }
  await until(() => warned.length === 2, "warned");
  assert.match(warned[0]!.message, /Odd: secret inside\n +at/);
  process.off("warning", listen);
});

test("an answer that is none is an error", async () => {
  // @ts-expect-error: not an answer
  gw.registerProvider("void", { chat: async () => undefined, embeddings: () => "x", async *chatStream() { yield 1; } });
  await assert.rejects(ask("void/x"), { status: 502, code: "upstream_error" });
  await assert.rejects(read("void/x"), { status: 502 });
  await assert.rejects(gw.embeddings.create({ model: "void/x", input: "x" }), { status: 502 });
  gw.registerProvider("vectors", { embeddings: () => [[1]] });
  await assert.rejects(ask("vectors/x"), { status: 400, message: "this provider does not serve chat" });
  assert.throws(() => gw.registerProvider("nothing", {}), /at least one of the methods/);
  assert.throws(() => gw.registerProvider("a/b", { chat: () => "x" }), /is no id of a provider/);
});

test("an error in the middle of a stream ends it", async () => {
  gw.registerProvider("breaks", {
    async *chatStream() {
      yield "a";
      throw new TypeError("broken");
    },
  });
  await assert.rejects(read("breaks/x"), (error: unknown) => error instanceof APIError && error.status === 502 && error.message.includes("TypeError"));
});

test("leaving ends the provider's work, 50 times", async () => {
  let ended = 0;
  let aborted = 0;
  gw.registerProvider("endless", {
    async *chatStream(_, { signal }) {
      signal.addEventListener("abort", () => aborted++);
      try {
        for (let at = 0; ; at++) {
          yield `${at} `;
          await sleep(1);
        }
      } finally {
        ended++;
      }
    },
  });
  for (let at = 0; at < 50; at++) {
    for await (const chunk of await gw.chat.completions.create({ model: "endless/x", messages: say("x"), stream: true })) if (chunk.choices[0]?.delta.content === "2 ") break;
  }
  await until(() => ended === 50 && aborted === 50, "all have ended");
});

test("a provider may use the gateway itself", async () => {
  gw.registerProvider("twice", {
    async chat(request) {
      const inner = await gw.chat.completions.create({ model: "simulated/echo", messages: request.messages });
      return `${inner.choices[0]?.message.content} ${inner.choices[0]?.message.content}`;
    },
  });
  const answers = await Promise.all(Array.from({ length: 50 }, (_, at) => ask("twice/x", `n${at}`)));
  answers.forEach((answer, at) => assert.equal(answer.choices[0]?.message.content, `n${at} n${at}`));
});

test("a provider is replaced by the next of its id", async () => {
  gw.registerProvider("one", { chat: () => "first" });
  gw.registerProvider("one", { chat: () => "second" });
  assert.equal((await ask("one/x")).choices[0]?.message.content, "second");
});
