// One Node client under load, in a process of its own: prints what its calls cost as JSON. As call.py.
//
//     node call.mjs CLIENT URL SECONDS CONCURRENCY...

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MODEL = "bench";
const messages = [{ role: "user", content: "Say a few words about the sea, and why people like to look at it." }];
const KEY = "sk-upstream";

const clients = {
  async lyss(url) {
    const { Gateway } = await import("lyss");
    const imported = performance.now();
    // The whole path: routing, metrics, the spool, the request log in SQLite.
    const gw = await Gateway.open({
      data: { dir: mkdtempSync(join(tmpdir(), "lyss-bench-")) },
      providers: { openai: { api_key: KEY, base_url: url } },
      routing: { default_provider: "openai" },
    });
    const call = async () => (await gw.chat.completions.create({ model: MODEL, messages })).choices[0].message.content;
    return { imported, call, close: () => gw.close() };
  },
  async fetch(url) {
    const headers = { "content-type": "application/json", authorization: `Bearer ${KEY}` };
    const call = async () => {
      const body = JSON.stringify({ model: MODEL, messages });
      const answer = await fetch(`${url}/chat/completions`, { method: "POST", headers, body });
      return (await answer.json()).choices[0].message.content;
    };
    return { imported: performance.now(), call };
  },
  async openai(url) {
    const { OpenAI } = await import("openai");
    const imported = performance.now();
    const client = new OpenAI({ baseURL: url, apiKey: KEY, maxRetries: 0 });
    const call = async () => (await client.chat.completions.create({ model: MODEL, messages })).choices[0].message.content;
    return { imported, call };
  },
  async ai(url) {
    const { generateText } = await import("ai");
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const imported = performance.now();
    const provider = createOpenAICompatible({ name: "bench", baseURL: url, apiKey: KEY });
    const model = provider(MODEL);
    const call = async () => (await generateText({ model, messages, maxRetries: 0 })).text;
    return { imported, call };
  },
};

async function load(call, concurrency, seconds) {
  const latencies = [];
  const end = performance.now() + seconds * 1000;
  const one = async () => {
    for (let began; (began = performance.now()) < end; ) {
      if (!(await call())) throw new Error("an empty answer");
      latencies.push(performance.now() - began);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, one));
  return latencies;
}

const [name, url, seconds, ...concurrencies] = process.argv.slice(2);
const begun = performance.now();
const { imported, call, close } = await clients[name](url);
const runs = [];
for (const concurrency of concurrencies.map(Number)) {
  await load(call, concurrency, seconds / 4);
  const [before, began] = [process.cpuUsage(), performance.now()];
  const latencies = (await load(call, concurrency, Number(seconds))).sort((a, b) => a - b);
  const [cpu, elapsed] = [process.cpuUsage(before), performance.now() - began];
  runs.push({
    concurrency,
    cpu_us: (cpu.user + cpu.system) / latencies.length,
    p50_us: latencies[Math.floor(latencies.length / 2)] * 1000,
    p99_us: latencies[Math.floor(latencies.length * 0.99)] * 1000,
    calls_per_s: latencies.length / (elapsed / 1000),
  });
}
const rss_mib = process.resourceUsage().maxRSS / 1024;
console.log(JSON.stringify({ import_ms: imported - begun, rss_mib, runs }));
await close?.();
