// What is under test, and the mock provider's side of it. The environment is that of the Python suite.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

const trimmed = (name) => (process.env[name] ?? "").replace(/\/+$/, "");
export const MOCK_URL = trimmed("MOCK_URL");
export const LYSS_URL = trimmed("LYSS_URL");
if (!MOCK_URL) throw new Error("MOCK_URL is not set; tests/clients/run.sh sets it");
export const BASE_URL = LYSS_URL || `${MOCK_URL}/v1`;
export const API_KEY = process.env.LYSS_API_KEY ?? "sk-test";
export const OPENAI_MODEL = process.env.LYSS_OPENAI_MODEL ?? "gpt-4o-mini";
export const DASHSCOPE_MODEL = process.env.LYSS_DASHSCOPE_MODEL ?? "qwen-plus";
export const DASHSCOPE_VISION = process.env.LYSS_DASHSCOPE_VISION_MODEL ?? "qwen3-vl-plus";
export const EMBEDDINGS = [
  process.env.LYSS_OPENAI_EMBEDDINGS_MODEL ?? "text-embedding-3-small",
  process.env.LYSS_DASHSCOPE_EMBEDDINGS_MODEL ?? "text-embedding-v4",
];
export const MAX_RETRIES = Number(process.env.LYSS_MAX_RETRIES ?? 3);
export const UPSTREAM_TIMEOUT_MS = Number(process.env.LYSS_UPSTREAM_TIMEOUT_MS ?? 2000);

/** Each major of the SDK: they differ in how they read streams. */
export const SDKS = ["openai-6", "openai-7"];

export const newMarker = () => `marker${randomUUID().replaceAll("-", "")}`;

/** Declares the tests of `body` once for every SDK: `body({ OpenAI, client, helpers })`. */
export async function forEachSdk(title, body) {
  for (const name of SDKS) {
    const sdk = await import(name);
    const helpers = await import(`${name}/helpers/zod`);
    const options = { baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, timeout: 30_000 };
    const client = new sdk.default(options);
    describe(`${title} (${name})`, () => body({ OpenAI: sdk.default, client, options, helpers }));
  }
}

/** Declares a test for each protocol behind the gateway. */
export function forEachModel(title, run) {
  for (const model of [OPENAI_MODEL, DASHSCOPE_MODEL]) test(`${title}: ${model}`, () => run(model));
}

/** Declares tests that only Lyss can pass; without Lyss they are not declared at all. */
export function lyssOnly(declare) {
  if (LYSS_URL) declare();
}

export const user = (content) => [{ role: "user", content }];

async function json(path, init) {
  const response = await fetch(MOCK_URL + path, init);
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

export const upstream = {
  control: (message) => json("/__control", { method: "POST", body: JSON.stringify(message) }),
  requests: (marker) => json(`/__requests?contains=${marker}`),
  async bodies(marker) {
    return (await this.requests(marker)).map((request) => JSON.parse(request.body));
  },
  async outcomeWithin(marker, outcome, milliseconds) {
    const deadline = performance.now() + milliseconds;
    for (;;) {
      const [first] = await this.requests(marker);
      const entry = first && (await json("/__ledger")).find((row) => row.seq === first.seq);
      if (entry?.outcome === outcome) return entry;
      assert.ok(performance.now() < deadline, `after ${milliseconds} ms the request is ${JSON.stringify(entry)}`);
      await sleep(20);
    }
  },
};

/** Awaits the rejection of `promise` and returns the error. */
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail("expected an error");
}
