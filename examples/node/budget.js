// A budget of a user: calls are paid from it, and refused before they cost more than is left.

import { BudgetExceededError, Gateway } from "lyss";

const gw = await Gateway.open({
  data: { dir: "lyss-data" },
  providers: { simulated: {} },
  billing: { prices: { echo: { input: 10, output: 1000, currency: "USD" } } }, // per million tokens
});
const budget = await gw.admin.budgets.create({ user: "bob", amount: "0.10", currency: "USD", period: "day" });

const ask = (max_tokens) =>
  gw.chat.completions.create({ model: "simulated/echo", user_id: "bob", max_tokens, messages: [{ role: "user", content: "word ".repeat(30) }] });

let paid = 0;
try {
  for (;;) {
    await ask(30);
    paid++;
  }
} catch (error) {
  if (!(error instanceof BudgetExceededError)) throw error;
  console.log(`refused with ${error.status} ${error.code}`);
}
const { spent, amount } = await gw.admin.budgets.retrieve(budget.id);
console.log(`${paid} calls, and no more than ${amount} spent: ${Number(spent) <= Number(amount)}`);

await gw.admin.budgets.delete(budget.id);
await gw.close();
