// The first provider fails, the second answers; the log says what was tried and why.
//
//     cd examples && npm install
//     node node/fallback.js

import { fileURLToPath } from "node:url";
import { Gateway } from "lyss";

const gw = await Gateway.open(fileURLToPath(new URL("../offline.yaml", import.meta.url)));

const answer = await gw.chat.completions.create({
  model: "steady",
  messages: [{ role: "user", content: "Are you there?" }],
});
console.log(`${answer.meta.provider} answered at attempt ${answer.meta.attempts}`);
for (const attempt of (await gw.requests.retrieve(answer.meta.requestId)).decision.attempts) {
  console.log(`${attempt.provider_id}: ${attempt.outcome}`);
}
await gw.close();
