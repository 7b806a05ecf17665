// A gateway in this process, one question, and what the gateway says about the answer.

import { Gateway } from "lyss";

// Everything is kept below ./lyss-data. With `openai: { api_key: "${OPENAI_API_KEY}" }` the model may be one of OpenAI's.
const gw = await Gateway.open({ data: { dir: "lyss-data" }, providers: { simulated: {} } });

const answer = await gw.chat.completions.create({
  model: "simulated/echo",
  messages: [{ role: "user", content: "Hello, gateway" }],
});
console.log(answer.choices[0].message.content);
console.log(`from ${answer.meta.provider}, ${answer.usage.total_tokens} tokens`);

await gw.close();
