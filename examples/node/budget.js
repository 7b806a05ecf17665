// What the session may cost bounds its answers, and then stops them.
//
//     cd examples && npm install
//     node node/budget.js

import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { BudgetExceededError, Gateway } from "lyss";

const session = `example-${randomUUID()}`;
const gw = await Gateway.open(fileURLToPath(new URL("../offline.yaml", import.meta.url)));

for (let turn = 1; turn < 20; turn++) {
  try {
    const answer = await gw.chat.completions.create({
      model: "assistant",
      messages: [{ role: "user", content: `Turn ${turn}: tell me more.` }],
      session_id: session,
    });
    console.log(`turn ${turn}: at most ${answer.meta.maxTokensClamped} tokens were left for the answer`);
  } catch (error) {
    if (!(error instanceof BudgetExceededError)) throw error;
    console.log(`turn ${turn}: ${error.code}`);
    console.log(error.message);
    break;
  }
}
await gw.close();
