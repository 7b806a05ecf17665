import assert from "node:assert/strict";
import { test } from "node:test";
import {
  OPENAI_MODEL, forEachModel, forEachSdk, lyssOnly, newMarker, rejection, upstream, user,
} from "../lib/target.js";

const WEATHER = {
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};

await forEachSdk("stream", ({ OpenAI, client }) => {
  const start = (model, content, more = {}) =>
    client.chat.completions.create({ model, messages: user(content), stream: true, ...more });
  const collect = async (stream) => {
    const chunks = [];
    for await (const chunk of await stream) chunks.push(chunk);
    return chunks;
  };
  const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

  forEachModel("text, without a trace of usage", async (model) => {
    const chunks = await collect(start(model, "one two"));
    assert.equal(text(chunks), "echo: one two");
    for (const chunk of chunks) {
      assert.equal(chunk.choices.length, 1);
      assert.ok(!("usage" in chunk));
    }
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  });

  forEachModel("include_usage", async (model) => {
    const chunks = await collect(start(model, "one two", { stream_options: { include_usage: true } }));
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.total_tokens, 8);
    assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage == null));
  });

  forEachModel("tool calls through the accumulating helper", async (model) => {
    const runner = client.chat.completions.stream({ model, messages: user("[[tools:2]]"), tools: [WEATHER] });
    const { message, finish_reason } = (await runner.finalChatCompletion()).choices[0];
    assert.equal(finish_reason, "tool_calls");
    assert.deepEqual(message.tool_calls.map((call) => JSON.parse(call.function.arguments).city), ["Oslo", "Bergen"]);
  });

  forEachModel("one byte at a time", async (model) => {
    assert.equal(text(await collect(start(model, "[[slice:1]] Grüße 你好 🦀"))), "echo: Grüße 你好 🦀");
  });

  test("refusal", async () => {
    const chunks = await collect(start(OPENAI_MODEL, "[[refusal]]"));
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.refusal ?? "").join(""), "I cannot help with that.");
  });

  forEachModel("death in mid-stream is an error", async (model) => {
    const seen = [];
    const error = await rejection((async () => {
      for await (const chunk of await start(model, "[[chunks:20 cut:2500]]")) seen.push(chunk);
    })());
    assert.ok(seen.length > 0);
    assert.ok(seen.every((chunk) => !chunk.choices[0]?.finish_reason));
    assert.ok(error instanceof Error);
  });

  lyssOnly(() => {
    for (const fault of ["cut:2500", "rst:2500", "error@3", "badjson@3", "nofinish noDONE"]) {
      forEachModel(`${fault} in mid-stream is the SDK's own error`, async (model) => {
        const error = await rejection(collect(start(model, `[[chunks:20 ${fault}]]`)));
        assert.ok(error instanceof OpenAI.APIError, String(error));
        assert.ok(error.code);
      });
    }
  });

  forEachModel("abort closes the upstream", async (model) => {
    for (const [way, leave] of [
      ["controller.abort()", (stream) => stream.controller.abort()],
      ["break", () => {}],
    ]) {
      const marker = newMarker();
      const stream = await start(model, `[[chunks:5000 every:20]] ${marker}`);
      let count = 0;
      for await (const _ of stream) {
        if (++count === 3) {
          leave(stream);
          break;
        }
      }
      const entry = await upstream.outcomeWithin(marker, "client_closed", 1000);
      assert.ok(entry.completion_tokens < 200, way);
    }
  });
});
