// One question, one answer. Nothing to start first: the gateway runs inside this program.
//
//     cd examples && npm install
//     node node/quick_start.js

import { fileURLToPath } from "node:url";
import { Gateway } from "lyss";

const config = fileURLToPath(new URL("../offline.yaml", import.meta.url));
const gw = await Gateway.open(config);

const answer = await gw.chat.completions.create({
  model: "assistant",
  messages: [{ role: "user", content: "Hello, Lyss!" }],
});
console.log(answer.choices[0].message.content);
console.log(`${answer.usage.total_tokens} tokens, answered by ${answer.meta.provider}`);
await gw.close();
