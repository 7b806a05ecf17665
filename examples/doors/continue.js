// ... continued here, in Node ...

import { fileURLToPath } from "node:url";
import { Gateway } from "lyss";

const [session] = process.argv.slice(2);
const gw = await Gateway.open(fileURLToPath(new URL("gateway.yaml", import.meta.url)));

const answer = await gw.chat.completions.create({
  model: "assistant",
  messages: [{ role: "user", content: "Continued in Node." }],
  session_id: session,
  user_id: "ada",
});
console.log(`a prompt of ${answer.usage.prompt_tokens} tokens`);
await gw.close();
