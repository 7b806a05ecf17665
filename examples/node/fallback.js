// Two providers for one model: when the first fails, the second answers. The first is written here.

import { Gateway, InternalServerError } from "lyss";

const gw = await Gateway.open({
  data: { dir: "lyss-data" },
  providers: { simulated: {} },
  routing: { max_retries: 1 },
});
gw.registerProvider("shaky", {
  chat() {
    throw new InternalServerError(503, { message: "not today" });
  },
});
const rules = [
  await gw.admin.routingRules.create({ model_name: "assistant", provider_id: "shaky", priority: 1 }),
  await gw.admin.routingRules.create({ model_name: "assistant", provider_id: "simulated", upstream_model: "echo", priority: 2 }),
];

const answer = await gw.chat.completions.create({ model: "assistant", messages: [{ role: "user", content: "Is somebody there?" }] });
console.log(`${answer.meta.provider} answered at attempt ${answer.meta.attempts}: ${answer.choices[0].message.content}`);

for (const rule of rules) await gw.admin.routingRules.delete(rule.id);
await gw.close();
