// A conversation that the gateway keeps: each turn sends only what is new.

import { Gateway } from "lyss";

const gw = await Gateway.open({ data: { dir: "lyss-data" }, providers: { simulated: {} } });
const ann = gw.withOptions({ userId: "ann" });
const say = (content, session_id) => ann.chat.completions.create({ model: "simulated/echo", messages: [{ role: "user", content }], session_id });

const first = await say("My name is Ann.", "new");
const id = first.meta.sessionId;
await say("What is my name?", id);
await gw.close();

// Another process, another day.
const later = (await Gateway.open({ data: { dir: "lyss-data" }, providers: { simulated: {} } })).withOptions({ userId: "ann" });
for await (const { message } of await later.sessions.messages(id)) console.log(`${message.role}: ${message.content}`);
await later.sessions.delete(id);
await later.close();
