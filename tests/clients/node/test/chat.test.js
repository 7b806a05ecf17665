import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import {
  API_KEY, DASHSCOPE_MODEL, DASHSCOPE_VISION, EMBEDDINGS, OPENAI_MODEL,
  forEachModel, forEachSdk, lyssOnly, newMarker, upstream, user,
} from "../lib/target.js";

const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const PIXEL =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

await forEachSdk("chat", ({ client, helpers }) => {
  const ask = (model, content, more = {}) =>
    client.chat.completions.create({ model, messages: user(content), ...more });

  forEachModel("answer and usage", async (model) => {
    const answer = await ask(model, "Grüße 你好 🦀");
    assert.equal(answer.choices[0].message.content, "echo: Grüße 你好 🦀");
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.deepEqual(
      [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens],
      [6, 4, 10],
    );
    assert.ok(answer._request_id);
  });

  forEachModel("parallel tool calls and their answers", async (model) => {
    const marker = newMarker();
    const { message, finish_reason } = (await ask(model, `[[tools:2]] ${marker}`, { tools: [WEATHER] })).choices[0];
    assert.equal(finish_reason, "tool_calls");
    assert.deepEqual(message.tool_calls.map((call) => JSON.parse(call.function.arguments).city), ["Oslo", "Bergen"]);
    const answers = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "3" }));
    const second = await client.chat.completions.create({
      model, tools: [WEATHER], messages: [...user(`weather ${marker}`), message, ...answers],
    });
    assert.equal(second.choices[0].message.content, `echo: weather ${marker}`);
  });

  forEachModel("parse with a zod schema", async (model) => {
    const Weather = z.object({ city: z.string(), degrees: z.number().int() });
    const answer = await client.chat.completions.parse({
      model, messages: user("weather?"), response_format: helpers.zodResponseFormat(Weather, "weather"),
    });
    assert.deepEqual(answer.choices[0].message.parsed, { city: "Oslo", degrees: 1 });
  });

  for (const model of [OPENAI_MODEL, DASHSCOPE_VISION]) {
    test(`image parts: ${model}`, async () => {
      const marker = newMarker();
      const answer = await ask(model, [
        { type: "text", text: `what is this ${marker}` },
        { type: "image_url", image_url: { url: PIXEL } },
      ]);
      assert.equal(answer.choices[0].message.content, `echo: what is this ${marker} (1 images)`);
      assert.ok((await upstream.requests(marker))[0].body.includes(PIXEL));
    });
  }

  forEachModel("reasoning", async (model) => {
    const { message } = (await ask(model, "[[reasoning:step_by_step]] hi")).choices[0];
    assert.equal(message.reasoning_content, "step by step");
  });

  test("refusal and log probabilities", async () => {
    const refused = (await ask(OPENAI_MODEL, "[[refusal]]")).choices[0].message;
    assert.deepEqual([refused.content, refused.refusal], [null, "I cannot help with that."]);
    const { logprobs } = (await ask(OPENAI_MODEL, "a", { logprobs: true })).choices[0];
    assert.deepEqual(logprobs.content.map((entry) => entry.token), ["echo: ", "a"]);
  });

  test("unknown fields reach the provider", async () => {
    const marker = newMarker();
    await ask(OPENAI_MODEL, marker, { x_vendor: { deep: [1.5, null, { zeta: 1, alpha: 2 }] } });
    const [{ body }] = await upstream.requests(marker);
    assert.ok(body.includes('"x_vendor":{"deep":[1.5,null,{"zeta":1,"alpha":2}]}'), body);
  });

  lyssOnly(() => {
    forEachModel("a session remembers, and its fields stay in the gateway", async (model) => {
      const marker = newMarker();
      const session_id = newMarker();
      await ask(model, `first ${marker}`, { session_id });
      await ask(model, `second ${marker}`, { session_id });
      const sent = (await upstream.bodies(marker)).at(-1);
      assert.deepEqual((sent.messages ?? sent.input.messages).map((message) => message.content), [
        `first ${marker}`, `echo: first ${marker}`, `second ${marker}`,
      ]);
      for (const request of await upstream.requests(marker)) {
        assert.ok(!request.body.includes("session_id"));
        assert.ok(!JSON.stringify(request.headers).includes(API_KEY), "the caller's key reached the provider");
      }
    });
  });

  for (const model of EMBEDDINGS) {
    test(`embeddings: ${model}`, async () => {
      const input = Array.from({ length: 12 }, (_, at) => `text number ${at}`);
      const options = { model, input, dimensions: 64 };
      const floats = await client.embeddings.create({ ...options, encoding_format: "float" });
      const decoded = await client.embeddings.create(options); // the SDK asks for base64 and decodes
      assert.deepEqual(floats.data.map((row) => row.index), [...input.keys()]);
      assert.equal(floats.usage.prompt_tokens, 36);
      for (const [at, row] of floats.data.entries()) {
        assert.deepEqual(Float32Array.from(row.embedding), Float32Array.from(decoded.data[at].embedding));
      }
    });
  }

  test("models", async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.includes(OPENAI_MODEL) && ids.includes(DASHSCOPE_MODEL), ids.join());
    assert.equal((await client.models.retrieve(OPENAI_MODEL)).id, OPENAI_MODEL);
  });
});
