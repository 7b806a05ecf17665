// What the types allow, and what not: checked by tsc, never run.

import {
  APIError,
  Gateway,
  RateLimitError,
  Stream,
  type ChatCompletion,
  type ChatCompletionChunk,
  type ChatCompletionCreateParams,
  type Meta,
  type Provider,
  type RequestRecord,
} from "lyss";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <T extends true>(_?: T): void => {};

export async function types(gw: Gateway, streamed: boolean): Promise<void> {
  const messages = [{ role: "user" as const, content: "hi" }];
  const whole = await gw.chat.completions.create({ model: "m", messages });
  const content: string | null | undefined = whole.choices[0]?.message.content;
  const meta: Meta = whole.meta;
  is<Same<(typeof meta)["attempts"], number | null>>();
  is<Same<(typeof whole)["usage"], ChatCompletion["usage"]>>();

  const stream = await gw.chat.completions.create({ model: "m", messages, stream: true });
  is<Same<typeof stream, Stream<ChatCompletionChunk>>>();
  for await (const chunk of stream) is<Same<typeof chunk, ChatCompletionChunk>>();

  const either = await gw.chat.completions.create({ model: "m", messages, stream: streamed });
  if (either instanceof Stream) for await (const chunk of either) void chunk.choices;
  else void either.choices;

  await gw.chat.completions.create({ model: "m", messages, session_id: "s", user_id: "u", of_some_provider: { a: 1 } });
  await gw.chat.completions.create({ model: "m", messages }, { signal: AbortSignal.timeout(1), timeout: 1000, idempotencyKey: "k", headers: { a: "b" } });
  // @ts-expect-error: a model is required
  await gw.chat.completions.create({ messages });
  // @ts-expect-error: no such role
  await gw.chat.completions.create({ model: "m", messages: [{ role: "nobody", content: "x" }] });
  // @ts-expect-error: milliseconds are a number
  await gw.chat.completions.create({ model: "m", messages }, { timeout: "1s" });
  // @ts-expect-error: no such option
  await gw.chat.completions.create({ model: "m", messages }, { retries: 1 });

  for await (const row of await gw.requests.list({ status: "error" })) is<Same<typeof row, RequestRecord>>();
  // @ts-expect-error: no such status
  await gw.requests.list({ status: "failed" });
  // @ts-expect-error: no such group
  await gw.usage({ by: ["colour"] });

  const provider: Provider = { chat: (request: ChatCompletionCreateParams, { signal }) => (signal.aborted ? "" : request.model) };
  gw.registerProvider("p", provider, { models: ["a"] });
  // @ts-expect-error: a number is no answer
  gw.registerProvider("p", { chat: () => 1 });

  const error: unknown = new Error();
  if (error instanceof RateLimitError) is<Same<(typeof error)["status"], 429>>();
  if (error instanceof APIError) void [error.code, error.requestId, error.retryAfter];

  // What the `openai` package declares for its option `fetch`, and what others do.
  const ofOpenAI: (input: string | URL | Request, init?: RequestInit) => Promise<Response> = gw.fetch;
  const global: typeof fetch = gw.fetch;
  gw.withOptions({ apiKey: "k" });
  Gateway.connect(new URL("http://127.0.0.1:8000"), { apiKey: "k" });
  await Gateway.open();
  await Gateway.open({ providers: {} });
  // @ts-expect-error: gateways are opened
  new Gateway();
  void [content, global, ofOpenAI];
}
