/** What the gateway says about an answer besides the answer: its headers, read when they are asked for. */
export class Meta {
  #text: string;
  #headers: Map<string, string> | undefined;

  /** @internal `text`: `name\nvalue\n…` */
  constructor(text: string) {
    this.#text = text;
    Object.defineProperty(this, Symbol.for("nodejs.util.inspect.custom"), { value: () => this.toJSON() });
  }

  /** @internal */
  static of(headers: Readonly<Record<string, string>> = {}): Meta {
    return new Meta(Object.entries(headers).map(([name, value]) => `${name.toLowerCase()}\n${value}\n`).join(""));
  }

  /** A header by its name in lower case. */
  get(name: string): string | null {
    return this.#read().get(name) ?? null;
  }

  /** All headers. */
  get headers(): Headers {
    return new Headers([...this.#read()]);
  }

  /** The gateway's id of the request, as in `gw.requests.retrieve(id)`. */
  get requestId(): string | null {
    return this.get("x-request-id");
  }
  /** The provider that answered. */
  get provider(): string | null {
    return this.get("x-lyss-provider");
  }
  /** The model name that went upstream. */
  get upstreamModel(): string | null {
    return this.get("x-lyss-model");
  }
  /** The session of the call, also one that was begun by `session_id: "new"`. */
  get sessionId(): string | null {
    return this.get("x-lyss-session-id");
  }
  /** How many times providers were called. */
  get attempts(): number | null {
    return this.#number("x-lyss-attempts");
  }
  /** `compressed` or `truncated` where not all of a session was sent. */
  get context(): string | null {
    return this.get("x-lyss-context");
  }
  /** `hit` or `miss` where a cache was asked. */
  get cache(): string | null {
    return this.get("x-lyss-cache");
  }
  /** `unavailable` where the memory did not answer. */
  get memory(): string | null {
    return this.get("x-lyss-memory");
  }
  /** Whether the answer was given before, to a call with the same idempotency key. */
  get replayed(): boolean {
    return this.get("idempotent-replayed") === "true";
  }
  /** What the output limit was lowered to by a budget. */
  get maxTokensClamped(): number | null {
    return this.#number("x-lyss-max-tokens-clamped");
  }

  /** What is set, as a plain object. */
  toJSON(): Record<string, unknown> {
    const { requestId, provider, upstreamModel, sessionId, attempts, context, cache, memory, replayed, maxTokensClamped } = this;
    const all = { requestId, provider, upstreamModel, sessionId, attempts, context, cache, memory, replayed, maxTokensClamped };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null && value !== false));
  }

  #number(name: string): number | null {
    const value = this.get(name);
    return value === null ? null : Number(value);
  }

  #read(): Map<string, string> {
    if (!this.#headers) {
      this.#headers = new Map();
      const lines = this.#text.split("\n");
      for (let at = 0; at + 1 < lines.length; at += 2) this.#headers.set(lines[at]!, lines[at + 1]!);
    }
    return this.#headers;
  }
}

/** What every answer carries besides its own members; neither is enumerable. */
export interface WithMeta {
  /** What the gateway says about the answer: provider, session, attempts, all headers. */
  readonly meta: Meta;
  /** The gateway's id of the request, under the name that the `openai` package has for it. */
  readonly _request_id: string | null;
}

/** Lays it on a parsed answer. */
export function withMeta<T extends object>(value: T, meta: Meta): T & WithMeta {
  Object.defineProperty(value, "meta", { value: meta, configurable: true });
  Object.defineProperty(value, "_request_id", { get: () => meta.requestId, configurable: true });
  return value as T & WithMeta;
}
