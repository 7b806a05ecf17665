// A conversation: only what is new is sent, the gateway keeps the rest.
//
//     cd examples && npm install
//     node node/session.js

import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { Gateway } from "lyss";

const session = `example-${randomUUID()}`;
const gw = await Gateway.open(fileURLToPath(new URL("../offline.yaml", import.meta.url)));

for (const text of ["My name is Ada.", "What is my name?"]) {
  const answer = await gw.chat.completions.create({
    model: "assistant",
    messages: [{ role: "user", content: text }],
    session_id: session,
    user_id: "ada",
  });
  console.log(`${text} -> a prompt of ${answer.usage.prompt_tokens} tokens`);
}
const kept = await gw.sessions.retrieve(session, { user_id: "ada" });
console.log(`${kept.message_count} messages are kept`);
await gw.sessions.delete(session, { user_id: "ada" });
await gw.close();
