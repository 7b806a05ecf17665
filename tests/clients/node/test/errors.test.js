import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import {
  BASE_URL, LYSS_URL, MAX_RETRIES, OPENAI_MODEL, UPSTREAM_TIMEOUT_MS,
  forEachModel, forEachSdk, lyssOnly, newMarker, rejection, upstream, user,
} from "../lib/target.js";

afterEach(() => upstream.control({ reset: true }));

await forEachSdk("errors", ({ OpenAI, client, options }) => {
  const ask = (model, content, more = {}) =>
    client.chat.completions.create({ model, messages: user(content), ...more });

  function check(error, kind, status, code) {
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.status, status);
    assert.equal(error.code, code);
    if (LYSS_URL) assert.equal(error.error.request_id, error.headers.get("x-request-id"));
    assert.equal(error.requestID, error.headers.get("x-request-id"));
  }

  test("unknown model", async () => {
    check(await rejection(ask("no-such-model", "hi")), OpenAI.NotFoundError, 404, "model_not_found");
  });

  forEachModel("the provider's own 4xx, once", async (model) => {
    const marker = newMarker();
    const error = await rejection(ask(model, `[[status:400 message:no_such_thing]] ${marker}`));
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.message, /no_such_thing/);
    assert.equal((await upstream.requests(marker)).length, 1);
  });

  forEachModel("rate limit of the provider", async (model) => {
    const error = await rejection(ask(model, "[[status:429 retry-after:1]]"));
    assert.ok(error instanceof OpenAI.RateLimitError);
    const pause = Number(error.headers.get("retry-after"));
    assert.ok(pause > 0);
    // Before that Lyss sends nobody there: the next tests must not meet the pause.
    await new Promise((over) => setTimeout(over, pause * 1000));
  });

  lyssOnly(() => {
    test("bad value, key, user", async () => {
      const bad = await rejection(client.chat.completions.create({ model: OPENAI_MODEL, messages: "hi" }));
      check(bad, OpenAI.BadRequestError, 400, "invalid_value");
      assert.equal(bad.param, "messages");
      const stranger = new OpenAI({ ...options, apiKey: "lyss_nobody_0000000000000000" });
      check(await rejection(stranger.models.list()), OpenAI.AuthenticationError, 401, "invalid_api_key");
      check(
        await rejection(ask(OPENAI_MODEL, "hi", { user_id: "somebody-else" })),
        OpenAI.PermissionDeniedError, 403, "user_mismatch",
      );
    });

    test("no key, wrong method, wrong type, unknown path", async () => {
      const post = { method: "POST", body: "{}", headers: { "content-type": "application/json" } };
      const auth = { authorization: `Bearer ${options.apiKey}` };
      for (const [path, init, status, code] of [
        ["/chat/completions", post, 401, "missing_api_key"],
        ["/chat/completions", { headers: auth }, 405, "method_not_allowed"],
        ["/chat/completions", { ...post, headers: { ...auth, "content-type": "text/plain" } }, 415, "unsupported_media_type"],
        ["/nowhere", { headers: auth }, 404, "unknown_path"],
        ["/sessions/no-such-session", { headers: auth }, 404, "session_not_found"],
      ]) {
        const response = await fetch(BASE_URL + path, init);
        assert.equal(response.status, status, path);
        assert.equal((await response.json()).error.code, code);
      }
    });

    forEachModel("our key is refused upstream", async (model) => {
      check(await rejection(ask(model, "[[status:401]]")), OpenAI.InternalServerError, 502, "upstream_auth_failed");
    });

    forEachModel("nonsense from upstream", async (model) => {
      const marker = newMarker();
      await upstream.control({ rules: [{ contains: marker, script: { body: "{" } }] });
      check(await rejection(ask(model, marker)), OpenAI.InternalServerError, 502, "upstream_invalid_response");
    });

    forEachModel("too slow", async (model) => {
      const error = await rejection(ask(model, `[[delay:${UPSTREAM_TIMEOUT_MS * 2}]]`));
      check(error, OpenAI.InternalServerError, 504, "upstream_timeout");
    });

    forEachModel("the SDK does not multiply our retries", async (model) => {
      const marker = newMarker();
      const eager = new OpenAI({ ...options, maxRetries: 2 });
      const error = await rejection(eager.chat.completions.create({ model, messages: user(`[[status:500]] ${marker}`) }));
      assert.ok(error instanceof OpenAI.InternalServerError);
      const hits = (await upstream.requests(marker)).length;
      assert.ok(hits >= 1 && hits <= 1 + MAX_RETRIES, String(hits));
    });
  });
});
