// The shared cases of the repository through this package: see tests/doors.md for the protocol. No case is known here.

import { createInterface } from "node:readline";

import { APIError, Gateway, Stream } from "lyss";

/** What is open. */
let gateway;
/** Streams that are read on later, by name: `[stream, iterator]`. */
const held = new Map();

const PATHS = {
  chat: "/v1/chat/completions",
  stream: "/v1/chat/completions",
  embed: "/v1/embeddings",
  tokens: "/v1/tokens",
  create_session: "/v1/sessions",
};

/** What is named otherwise in JavaScript. */
const ADMIN = { routing_rules: "routingRules" };

/** The call, as a user of the package writes it. */
function make(gw, { call, body, id, raw_body, idempotency_key }) {
  const options = idempotency_key == null ? {} : { idempotencyKey: idempotency_key };
  if (raw_body != null) return gw.request("POST", PATHS[call], { body: raw_body, ...options });
  switch (call) {
    case "chat":
    case "stream":
      return gw.chat.completions.create(body, options);
    case "embed":
      return gw.embeddings.create(body, options);
    case "tokens":
      return gw.tokens.count(body, options);
    case "models":
      return gw.models.list();
    case "model":
      return gw.models.retrieve(id);
    case "create_session":
      return gw.sessions.create(body);
    case "session":
      return gw.sessions.retrieve(id);
    case "sessions":
      return gw.sessions.list();
    case "messages":
      return gw.sessions.messages(id);
    case "delete_session":
      return gw.sessions.delete(id);
    case "requests":
      return gw.requests.list(body ?? {});
    case "request":
      return gw.requests.retrieve(id);
    case "usage":
      return gw.usage(body ?? {});
    case "admin":
      return gw.admin[ADMIN[id] ?? id].list();
    default:
      throw new Error(`no call ${call}`);
  }
}

function described(outcome, meta) {
  outcome.request_id = meta.requestId;
  outcome.provider = meta.provider;
  outcome.upstream_model = meta.upstreamModel;
  outcome.session_id = meta.sessionId;
  outcome.context = meta.context;
  outcome.attempts = meta.attempts;
  if (meta.replayed) outcome.replayed = true;
  for (const [name, value] of Object.entries(outcome)) if (value === null) delete outcome[name];
  return outcome;
}

const envelope = ({ code, type, param, message }) => ({ code, type, param, message });

async function outcome(asked) {
  if (asked.call === "rest") return read(...take(asked.id), asked);
  if (asked.call === "drop") {
    const [stream] = take(asked.id);
    stream.abort();
    return { status: 200 };
  }
  const gw = gateway.withOptions({ apiKey: asked.key ?? "", ...(asked.user_id == null ? {} : { userId: asked.user_id }) });
  try {
    const answer = await make(gw, asked);
    if (answer instanceof Stream) return await read(answer, answer[Symbol.asyncIterator](), asked);
    if (answer === undefined) return { status: 204 };
    return described({ status: 200, body: answer }, answer.meta);
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return described({ status: error.status, error: envelope(error), should_retry: error.shouldRetry }, error.meta);
  }
}

async function read(stream, iterator, { read: most, hold }) {
  const events = [];
  let done = false;
  let open = true;
  while (open && (most == null || events.length < most)) {
    try {
      const next = await iterator.next();
      if (next.done) {
        done = true;
        open = false;
      } else events.push(next.value);
    } catch (error) {
      if (!(error instanceof APIError)) throw error;
      events.push({ error: envelope(error) });
      open = false;
    }
  }
  if (open && hold != null) held.set(hold, [stream, iterator]);
  else if (open) await iterator.return();
  return described({ status: 200, events, done, open }, stream.meta);
}

function take(name) {
  const found = held.get(name);
  if (!found) throw new Error(`no stream is held as ${name}`);
  held.delete(name);
  return found;
}

async function answer({ open, call, close }) {
  if (open) {
    const { connect, config } = open;
    gateway = connect
      ? await Gateway.connect(connect.url, connect.api_key == null ? {} : { apiKey: connect.api_key })
      : await Gateway.open(config);
    return { ok: true };
  }
  if (call) return outcome(call);
  if (close) {
    for (const [stream] of held.values()) stream.abort();
    held.clear();
    await gateway.close();
    return { ok: true };
  }
  throw new Error("neither open, call nor close");
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
