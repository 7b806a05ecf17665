// The answer piece by piece, as it is written; the last chunk has the usage.
//
//     cd examples && npm install
//     node node/streaming.js

import { fileURLToPath } from "node:url";
import { Gateway } from "lyss";

const gw = await Gateway.open(fileURLToPath(new URL("../offline.yaml", import.meta.url)));

const stream = await gw.chat.completions.create({
  model: "assistant",
  messages: [{ role: "user", content: "one two three" }],
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  for (const choice of chunk.choices) process.stdout.write(choice.delta.content ?? "");
  if (chunk.usage) console.log(`\n${chunk.usage.total_tokens} tokens`);
}
await gw.close();
