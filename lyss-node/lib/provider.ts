/** Providers written in JavaScript. */

import { APIError } from "./errors";
import { Kind, type NativeReplies } from "./native";
import type { ChatCompletion, ChatCompletionChunk, ChatCompletionCreateParams } from "./types/chat";
import type { EmbeddingCreateParams, EmbeddingList } from "./types/embeddings";

/** What a provider is told besides the request. */
export interface ProviderContext {
  /** Aborted when the answer is not wanted any more: the caller left, or a timeout passed. */
  readonly signal: AbortSignal;
}

/**
 * Something that answers requests in OpenAI's shape; register it with `gw.registerProvider("mine", provider)` and ask
 * for the model `mine/anything`. Routing, retries, limits, sessions, budgets and the log treat it like any other.
 *
 * A thrown error of this package, such as `RateLimitError`, is what the gateway takes it for; any other is an
 * `upstream_error` that names its class, and its stack goes to `process.emitWarning`.
 */
export interface Provider {
  /** A whole answer: a text, or a completion. Streamed calls get it in one piece if there is no `chatStream`. */
  chat?(request: ChatCompletionCreateParams, context: ProviderContext): ChatAnswer | Promise<ChatAnswer>;
  /** A streamed answer: texts, or chunks. Also gives the whole ones if there is no `chat`, of texts. */
  chatStream?(
    request: ChatCompletionCreateParams,
    context: ProviderContext,
  ): AsyncIterable<ChatPiece> | Iterable<ChatPiece> | Promise<AsyncIterable<ChatPiece> | Iterable<ChatPiece>>;
  /** Embeddings, one vector for each input, or the whole list. */
  embeddings?(request: EmbeddingCreateParams, context: ProviderContext): EmbeddingAnswer | Promise<EmbeddingAnswer>;
}

export type ChatAnswer = string | (Partial<ChatCompletion> & Pick<ChatCompletion, "choices">);
export type ChatPiece = string | (Partial<ChatCompletionChunk> & Pick<ChatCompletionChunk, "choices">);
export type EmbeddingAnswer = number[][] | (Partial<EmbeddingList> & Pick<EmbeddingList, "data">);

interface Registered {
  provider: Provider;
  models: string[];
}

/** A stream that the gateway reads, and what ends it. */
interface Running {
  controller: AbortController;
  /** The events of a stream, as they are sent. */
  events?: AsyncIterator<string>;
  /** Whether the stream has begun: what goes wrong then is an event of it. */
  begun?: boolean;
}

/** The providers of one gateway, and what they have been asked. */
export class Providers {
  replies!: NativeReplies;
  #registered = new Map<string, Registered>();
  #running = new Map<number, Running>();

  set(id: string, provider: Provider, models: string[]): void {
    this.#registered.set(id, { provider, models });
  }

  clear(): void {
    this.#registered.clear();
  }

  /** Something that the native part asks. */
  take(id: number, kind: Kind, text: string, body: string): void {
    if (kind === Kind.Ask) void this.#ask(id, text, body);
    else if (kind === Kind.More) void this.#more(id);
    else this.#leave(id);
  }

  async #ask(id: number, text: string, body: string): Promise<void> {
    const [path, name] = text.split("\n") as [string, string];
    const running: Running = { controller: new AbortController() };
    this.#running.set(id, running);
    try {
      const registered = this.#registered.get(name);
      if (!registered) throw new APIError(503, { message: "the gateway is closed", type: "overloaded_error", code: "shutting_down" });
      if (path === "models") {
        const data = registered.models.map((model) => ({ id: model, object: "model", created: 0, owned_by: name }));
        return this.#answer(id, { object: "list", data });
      }
      const request = JSON.parse(body) as ChatCompletionCreateParams & EmbeddingCreateParams;
      const context = { signal: running.controller.signal };
      if (path === "embeddings") return this.#answer(id, await embedded(registered.provider, request, context));
      if (request.stream !== true) return this.#answer(id, await completed(registered.provider, request, context));
      const pieces = await streamed(registered.provider, request, context);
      running.events = eventsOf(pieces, request.model);
      // Begun: errors of a stream that has not yielded yet are those of the call.
      await this.#more(id);
    } catch (error) {
      this.#fail(id, error);
    }
  }

  async #more(id: number): Promise<void> {
    const running = this.#running.get(id);
    if (!running?.events) return;
    try {
      const { done, value } = await running.events.next();
      if (!this.#running.has(id)) return;
      if (done) this.#running.delete(id);
      running.begun = true;
      this.replies.answer(id, 200, null, done ? "data: [DONE]\n\n" : value, !done);
    } catch (error) {
      this.#fail(id, error);
    }
  }

  #leave(id: number): void {
    const running = this.#running.get(id);
    this.#running.delete(id);
    running?.controller.abort();
    // A generator that waits hears of it by the signal; one that does not ends where it stands.
    running?.events?.return?.()?.catch(() => {});
  }

  #answer(id: number, answer: object): void {
    if (this.#running.delete(id)) this.replies.answer(id, 200, null, JSON.stringify(answer), false);
  }

  #fail(id: number, error: unknown): void {
    const running = this.#running.get(id);
    if (!running) return;
    this.#running.delete(id);
    const known = error instanceof APIError && error.status !== undefined;
    if (!known) process.emitWarning(`a provider failed: ${(error as Error)?.stack ?? String(error)}`, "LyssProviderWarning");
    const said = known
      ? { message: error.message, type: error.type, code: error.code, param: error.param }
      : { message: (error as Error)?.name ?? "Error", type: "server_error", code: null, param: null };
    const pause = known && error.retryAfter !== null ? String(error.retryAfter) : null;
    const body = running.begun ? event({ error: said }) : JSON.stringify({ error: said });
    this.replies.answer(id, known ? error.status! : 500, pause, body, false);
  }
}

async function completed(provider: Provider, request: ChatCompletionCreateParams, context: ProviderContext): Promise<object> {
  if (provider.chat) {
    const answer = checked(await provider.chat(request, context), "chat", "choices");
    return typeof answer === "string" ? completion(request.model, answer, "stop") : { ...completion(request.model, "", "stop"), ...answer };
  }
  let text = "";
  let finish: string | null = null;
  let usage: unknown;
  for await (const piece of await streamed(provider, request, context)) {
    checked(piece, "chatStream", "choices");
    if (typeof piece === "string") text += piece;
    else {
      text += piece.choices[0]?.delta.content ?? "";
      finish = piece.choices[0]?.finish_reason ?? finish;
      usage = piece.usage ?? usage;
    }
  }
  return { ...completion(request.model, text, finish ?? "stop"), ...(usage ? { usage } : {}) };
}

async function streamed(provider: Provider, request: ChatCompletionCreateParams, context: ProviderContext): Promise<AsyncIterable<ChatPiece> | Iterable<ChatPiece>> {
  if (provider.chatStream) return provider.chatStream(request, context);
  if (!provider.chat) throw unsupported("chat");
  const answer = checked(await provider.chat(request, context), "chat", "choices");
  if (typeof answer === "string") return [answer];
  const { choices, usage } = answer;
  const parts: ChatPiece[] = choices.map(({ index, message, finish_reason }) => {
    const { tool_calls, ...delta } = message;
    const calls = tool_calls?.map((call, at) => ({ ...call, index: at }));
    return { choices: [{ index, delta: { ...delta, ...(calls ? { tool_calls: calls } : {}) }, finish_reason }] } as ChatPiece;
  });
  return usage ? [...parts, { choices: [], usage }] : parts;
}

async function embedded(provider: Provider, request: EmbeddingCreateParams, context: ProviderContext): Promise<object> {
  if (!provider.embeddings) throw unsupported("embeddings");
  const answer = await provider.embeddings(request, context);
  if (!Array.isArray(answer)) checked(answer, "embeddings", "data");
  const list = Array.isArray(answer) ? { data: answer.map((embedding, index) => ({ object: "embedding", index, embedding })) } : answer;
  return { object: "list", model: request.model, ...list };
}

/** What a provider gave, if it can be that: an answer without anything in it would be taken for the model's silence. */
function checked<T>(value: T, method: string, member: "choices" | "data"): T {
  const found = typeof value === "string" ? method !== "embeddings" : Array.isArray((value as Record<string, unknown> | null)?.[member]);
  if (!found) throw new TypeError(`\`${method}\` of a provider gave ${value === null ? "null" : typeof value}, not a text or an object with \`${member}\``);
  return value;
}

/** The events of a stream: chunks made whole, and a finish where the provider gives none. */
async function* eventsOf(pieces: AsyncIterable<ChatPiece> | Iterable<ChatPiece>, model: string): AsyncGenerator<string> {
  const head = { id: newId(), object: "chat.completion.chunk", created: Math.floor(Date.now() / 1000), model };
  let begun = false;
  let finished = false;
  for await (const piece of pieces) {
    checked(piece, "chatStream", "choices");
    if (typeof piece === "string") {
      const delta = begun ? { content: piece } : { role: "assistant", content: piece };
      yield event({ ...head, choices: [{ index: 0, delta, finish_reason: null }] });
    } else {
      finished ||= piece.choices.some((choice) => choice.finish_reason != null);
      if (!finished || piece.choices.length > 0 || piece.usage) yield event({ ...head, ...piece });
    }
    begun = true;
  }
  if (!finished) yield event({ ...head, choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
}

function event(chunk: object): string {
  return `data: ${JSON.stringify(chunk)}\n\n`;
}

function completion(model: string, content: string, finish: string): object {
  const choices = [{ index: 0, message: { role: "assistant", content, refusal: null }, logprobs: null, finish_reason: finish }];
  return { id: newId(), object: "chat.completion", created: Math.floor(Date.now() / 1000), model, choices };
}

function newId(): string {
  return `chatcmpl-${crypto.randomUUID()}`;
}

function unsupported(what: string): APIError {
  return new APIError(400, { message: `this provider does not serve ${what}`, type: "invalid_request_error", code: "invalid_value", param: "model" });
}
