// An answer as it comes, and one that is left half way: the provider stops, too.

import { Gateway } from "lyss";

const gw = await Gateway.open({ data: { dir: "lyss-data" }, providers: { simulated: { options: { tokens_per_second: 100 } } } });
const ask = (content, options) =>
  gw.chat.completions.create({ model: "simulated/echo", messages: [{ role: "user", content }], stream: true, stream_options: { include_usage: true } }, options);

for await (const chunk of await ask("one two three four five")) {
  process.stdout.write(chunk.choices[0]?.delta.content ?? "");
  if (chunk.usage) console.log(`\n${chunk.usage.completion_tokens} tokens`);
}

const left = await ask("word ".repeat(1000));
let words = 0;
for await (const chunk of left) if (chunk.choices[0]?.delta.content && ++words === 3) break;
await gw.close();

const log = await Gateway.open({ data: { dir: "lyss-data" }, providers: { simulated: {} } });
const row = await log.requests.retrieve(left.meta.requestId);
console.log(`${row.status} after some ${row.output_tokens < 20 ? "few" : "many"} tokens`);
await log.close();
