// An idempotency key makes the SDK's own retries harmless: what was sent twice is done once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { OPENAI_MODEL, forEachModel, forEachSdk, lyssOnly, newMarker, rejection, upstream, user } from "../lib/target.js";

await forEachSdk("idempotency", ({ OpenAI, client, options }) =>
  lyssOnly(() => {
    const keyed = (key) => ({ headers: { "Idempotency-Key": key } });
    // Gives up before the provider has answered, and tries again.
    const impatient = () => new OpenAI({ ...options, timeout: 600, maxRetries: 3 });

    forEachModel("a call that timed out is fetched and not made again", async (model) => {
      const marker = newMarker();
      const answer = await impatient().chat.completions.create(
        { model, messages: user(`[[delay:1200]] ${marker}`) }, keyed(marker),
      );
      assert.equal(answer.choices[0].message.content, `echo: ${marker}`);
      assert.equal((await upstream.requests(marker)).length, 1);
    });

    test("every call of a client with a key of its own", async () => {
      const marker = newMarker();
      const own = impatient();
      // The SDK makes a key for each call and keeps it over its retries; this names the header to send it in.
      own.idempotencyHeader = "Idempotency-Key";
      for (const n of [0, 1]) {
        const messages = user(`[[delay:1200]] ${marker} ${n}`);
        const answer = await own.chat.completions.create({ model: OPENAI_MODEL, messages });
        assert.equal(answer.choices[0].message.content, `echo: ${marker} ${n}`);
      }
      assert.equal((await upstream.requests(marker)).length, 2);
    });

    forEachModel("the same call twice, then another under its key", async (model) => {
      const marker = newMarker();
      const ask = (content) => client.chat.completions.create({ model, messages: user(content) }, keyed(marker)).withResponse();
      const [first, second] = [await ask(marker), await ask(marker)];
      assert.deepEqual(first.data, second.data);
      assert.equal(first.response.headers.get("idempotent-replayed"), null);
      assert.equal(second.response.headers.get("idempotent-replayed"), "true");
      assert.equal((await upstream.requests(marker)).length, 1);
      const error = await rejection(ask(`other ${marker}`));
      assert.ok(error instanceof OpenAI.UnprocessableEntityError);
      assert.equal(error.code, "idempotency_key_reused");
    });

    forEachModel("the same stream twice", async (model) => {
      const marker = newMarker();
      const read = async () => {
        const chunks = [];
        const request = { model, messages: user(marker), stream: true, stream_options: { include_usage: true } };
        for await (const chunk of await client.chat.completions.create(request, keyed(marker))) chunks.push(chunk);
        return chunks;
      };
      assert.deepEqual(await read(), await read());
      assert.equal((await upstream.requests(marker)).length, 1);
    });
  }),
);
