// CPU of this process per call, all threads: the package beside a raw fetch and the SDKs, on the same provider.
//
//   npm run build && cargo build --release -p lyss-mock-provider
//   MOCK=../../../target/release/mock-provider node bench.mjs [CALLS] [CONCURRENT]
//
// Every way asks for the same bytes: an answer of 200 B, a stream of 100 chunks without pauses. The package does what a
// gateway does besides: routing, limits, ledger, request log in SQLite.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { Gateway } from "lyss";
import OpenAI from "openai";

const [calls = 5000, concurrent = 32] = process.argv.slice(2).map(Number);
const mock = spawn(process.env.MOCK ?? "../../../target/debug/mock-provider", ["--bench", "--every", "0"], { stdio: ["ignore", "pipe", "inherit"] });
const [line] = await once(mock.stdout, "data");
const url = `http://${String(line).match(/listening on (\S+)/)[1]}/v1`;

const dir = mkdtempSync(join(tmpdir(), "lyss-bench-"));
const gw = await Gateway.open({ data: { dir }, providers: { up: { kind: "openai", api_key: "k", base_url: url, models: { small: "small" } } }, routing: { health_check: { enabled: false } } });
const body = { model: "small", messages: [{ role: "user", content: "Hello" }] };
const drain = async (stream) => {
  let chunks = 0;
  for await (const _ of stream) chunks++;
  return chunks;
};

async function* events(response) {
  let rest = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const all = (rest + piece).split("\n\n");
    rest = all.pop();
    for (const event of all) if (event !== "data: [DONE]") yield JSON.parse(event.slice(6));
  }
}
const post = (to, body) => fetch(`${to}/chat/completions`, { method: "POST", headers: { "content-type": "application/json", authorization: "Bearer k" }, body: JSON.stringify(body) });
const direct = new OpenAI({ apiKey: "k", baseURL: url });
const through = new OpenAI({ apiKey: "-", baseURL: "http://lyss/v1", fetch: gw.fetch });
const ai = createOpenAICompatible({ name: "x", baseURL: url, apiKey: "k" })("small");
const aiThrough = createOpenAICompatible({ name: "x", baseURL: "http://lyss/v1", fetch: gw.fetch })("small");
const prompt = "Hello";

const ways = {
  "fetch": [async () => (await post(url, body)).json(), async () => drain(events(await post(url, { ...body, stream: true })))],
  "lyss": [() => gw.chat.completions.create(body), async () => drain(await gw.chat.completions.create({ ...body, stream: true }))],
  "openai": [() => direct.chat.completions.create(body), async () => drain(await direct.chat.completions.create({ ...body, stream: true }))],
  "openai on gw.fetch": [() => through.chat.completions.create(body), async () => drain(await through.chat.completions.create({ ...body, stream: true }))],
  "ai sdk": [() => generateText({ model: ai, prompt }), async () => drain(streamText({ model: ai, prompt }).textStream)],
  "ai sdk on gw.fetch": [() => generateText({ model: aiThrough, prompt }), async () => drain(streamText({ model: aiThrough, prompt }).textStream)],
};

/** CPU in microseconds and wall time in milliseconds for so many calls, and the calls' own times. */
async function measure(make, count) {
  const times = [];
  let begun = 0;
  let chunks = 0;
  const worker = async () => {
    while (begun++ < count) {
      const at = performance.now();
      chunks += Number(await make()) || 0;
      times.push(performance.now() - at);
    }
  };
  const cpu = process.cpuUsage();
  const wall = performance.now();
  await Promise.all(Array.from({ length: concurrent }, worker));
  const { user, system } = process.cpuUsage(cpu);
  times.sort((a, b) => a - b);
  return { cpu: user + system, wall: performance.now() - wall, chunks, p50: times[times.length >> 1], p99: times[Math.floor(times.length * 0.99)] };
}

console.log(`${calls} calls, ${concurrent} at once, node ${process.version}`);
console.log("| | CPU µs a call | calls/s | p50 ms | p99 ms | CPU µs a chunk |\n|---|---|---|---|---|---|");
for (const [name, [whole, streamed]] of Object.entries(ways)) {
  await measure(whole, 300);
  const one = await measure(whole, calls);
  await measure(streamed, 20);
  const count = Math.ceil(calls / 20);
  const many = await measure(streamed, count);
  // What a stream costs besides its chunks is taken for that of a whole answer.
  const chunk = (many.cpu - (one.cpu / calls) * count) / many.chunks;
  console.log(`| ${name} | ${Math.round(one.cpu / calls)} | ${Math.round((calls / one.wall) * 1000)} | ${one.p50.toFixed(1)} | ${one.p99.toFixed(1)} | ${chunk.toFixed(1)} |`);
}
await gw.close();
mock.kill();
rmSync(dir, { recursive: true });
