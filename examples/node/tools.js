// The model asks for a tool; its result goes back in the next request.
//
//     cd examples && npm install
//     node node/tools.js

import { fileURLToPath } from "node:url";
import { Gateway } from "lyss";

const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

const gw = await Gateway.open(fileURLToPath(new URL("../offline.yaml", import.meta.url)));

const messages = [{ role: "user", content: "What is the weather in Paris?" }];
let answer = await gw.chat.completions.create({
  model: "assistant",
  messages,
  tools: [weather],
  tool_choice: { type: "function", function: { name: "weather" } },
});
const message = answer.choices[0].message;
messages.push(message);
for (const call of message.tool_calls) {
  const names = Object.keys(JSON.parse(call.function.arguments));
  console.log(`asked for ${call.function.name}(${names.join(", ")})`);
  messages.push({ role: "tool", tool_call_id: call.id, content: "18 degrees, sunny" });
}
answer = await gw.chat.completions.create({ model: "assistant", messages, tools: [weather] });
console.log(answer.choices[0].message.content);
await gw.close();
