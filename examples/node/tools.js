// A tool that the model calls, and its result.

import { Gateway } from "lyss";

const gw = await Gateway.open({ data: { dir: "lyss-data" }, providers: { simulated: {} } });
const tools = [
  {
    type: "function",
    function: { name: "weather", description: "The weather of a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
  },
];
const weather = ({ city }) => ({ city: city || "Bremen", degrees: 21 });

const messages = [{ role: "user", content: "How warm is it in Bremen?" }];
const first = await gw.chat.completions.create({
  model: "simulated/echo",
  messages,
  tools,
  tool_choice: { type: "function", function: { name: "weather" } }, // the simulated model calls a tool when it must
});
messages.push(first.choices[0].message);
for (const call of first.choices[0].message.tool_calls) {
  const result = weather(JSON.parse(call.function.arguments));
  console.log(`${call.function.name} -> ${JSON.stringify(result)}`);
  messages.push({ role: "tool", tool_call_id: call.id, content: JSON.stringify(result) });
}
const second = await gw.chat.completions.create({ model: "simulated/echo", messages, tools });
console.log(second.choices[0].message.content);

await gw.close();
