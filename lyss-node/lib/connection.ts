/** One native gateway, and the calls that are on their way in it. */

import { defaultMaxListeners, getMaxListeners, setMaxListeners } from "node:events";

import { APIError, APITimeoutError, APIUserAbortError, ConfigError, LyssError, closedError, errorOfBody } from "./errors";
import { Meta } from "./meta";
import { Kind, native, type NativeCall, type NativeGateway, type Payload } from "./native";
import { Providers } from "./provider";

/** One thing that happened to a call. */
export interface Happened {
  kind: Kind;
  status: number;
  text: string;
  payload: Payload | null;
}

interface Waiter {
  resolve(happened: Happened): void;
  reject(error: unknown): void;
}

/** Who waits for what, by the id of the call. */
type Waiting = Map<number, Waiter>;

/** What is sent. */
export interface Sent {
  method: string;
  path: string;
  /** Name and value in turn. */
  headers: string[];
  body: string | Uint8Array | null;
  /** `null`: the process itself; empty: nobody; else an API key. */
  key: string | null;
  /** Whether bodies are wanted as strings. */
  text: boolean;
  signal?: AbortSignal | null | undefined;
  /** Milliseconds until the answer, or the head of a stream, must be there. */
  timeout?: number | undefined;
}

export type Source = { kind: "default" | "file" | "text" | "connect"; text: string };

/** Holds the event loop while somebody waits for a call, in any gateway; an idle gateway does not keep a process alive. */
const alive = {
  count: 0,
  timer: undefined as NodeJS.Timeout | undefined,
  more(): void {
    if (this.count++ === 0) (this.timer ??= setInterval(() => {}, 0x7fffffff)).ref();
  },
  less(): void {
    if (--this.count === 0) this.timer?.unref();
  },
};

function waitFor(waiting: Waiting, id: number): Promise<Happened> {
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    alive.more();
  });
}

function take(waiting: Waiting, id: number): Waiter | undefined {
  const waiter = waiting.get(id);
  if (waiter) {
    waiting.delete(id);
    alive.less();
  }
  return waiter;
}

export class Connection {
  readonly providers: Providers;
  /** @internal */
  readonly waiting: Waiting;
  /** @internal */
  readonly native: NativeGateway;
  #last = 0;
  #closing: Promise<void> | undefined;

  private constructor(source: Source) {
    const waiting: Waiting = new Map();
    const providers = new Providers();
    // Must not hold the gateway: the native part holds this function, and a gateway that nobody uses has to go.
    this.native = new (native().NativeGateway)(source.kind, source.text, (id, kind, status, text, payload) => {
      if (kind >= Kind.Ask) providers.take(id, kind, text, payload as string);
      else take(waiting, id)?.resolve({ kind, status, text, payload: payload ?? null });
    });
    this.waiting = waiting;
    this.providers = providers;
    providers.replies = this.native.replies;
  }

  static async open(source: Source): Promise<Connection> {
    const connection = new Connection(source);
    const opened = await waitFor(connection.waiting, 0);
    if (opened.kind === Kind.Opened) return connection;
    const said = JSON.parse(opened.text) as { config?: string[] };
    if (said.config) throw new ConfigError(said.config);
    throw new ConfigError([errorOfBody(500, opened.text, new Meta("")).message]);
  }

  static connect(options: string): Connection {
    try {
      return new Connection({ kind: "connect", text: options });
    } catch (error) {
      throw new ConfigError([(error as Error).message]);
    }
  }

  /** Begins a call. */
  start(sent: Sent): Exchange {
    if (this.#closing) throw closedError("this gateway is closed; open another one");
    if (sent.signal?.aborted) throw new APIUserAbortError(sent.signal.reason);
    const id = this.#next();
    const exchange = new Exchange(this, id);
    const head = waitFor(this.waiting, id);
    let call: NativeCall;
    try {
      call = this.native.call(id, sent.text, sent.method, sent.path, sent.headers, sent.body, sent.key);
    } catch (error) {
      take(this.waiting, id);
      throw new LyssError((error as Error).message, { cause: error });
    }
    exchange.begin(call, head, sent);
    return exchange;
  }

  close(graceMs: number): Promise<void> {
    return (this.#closing ??= this.#close(graceMs));
  }

  get closed(): boolean {
    return this.#closing !== undefined;
  }

  async #close(graceMs: number): Promise<void> {
    const closed = waitFor(this.waiting, 0);
    this.native.close(graceMs);
    await closed;
    // A provider may hold the gateway that holds it.
    this.providers.clear();
  }

  #next(): number {
    do this.#last = this.#last >= 0xffff_ffff ? 1 : this.#last + 1;
    while (this.waiting.has(this.#last));
    return this.#last;
  }
}

/** Takes the listeners of calls that were collected off signals that go on. */
const forgotten = new FinalizationRegistry<{ signal: AbortSignal; aborted: () => void }>(({ signal, aborted }) =>
  signal.removeEventListener("abort", aborted),
);

// These stand outside of the class, so that neither holds its call: a stream that nobody reads any more is collected,
// however long the signal lives.

function listen(signal: AbortSignal, call: WeakRef<Exchange>): () => void {
  const aborted = () => call.deref()?.fail(new APIUserAbortError(signal.reason));
  // Many calls may have one signal, as with fetch.
  if (getMaxListeners(signal) === defaultMaxListeners) setMaxListeners(1500, signal);
  signal.addEventListener("abort", aborted, { once: true });
  return aborted;
}

function late(call: WeakRef<Exchange>, timeout: number): void {
  call.deref()?.fail(new APITimeoutError(timeout));
}

/** One call: its head, then the pieces of a stream. Ends upstream too when it is ended, or collected. */
export class Exchange {
  #connection: Connection;
  #id: number;
  #call: NativeCall | undefined;
  #head!: Promise<Happened>;
  /** Why it ended before its time. */
  #failed: { error: unknown } | undefined;
  #release: (() => void) | undefined;

  constructor(connection: Connection, id: number) {
    this.#connection = connection;
    this.#id = id;
  }

  /** @internal */
  begin(call: NativeCall, head: Promise<Happened>, sent: Sent): void {
    this.#call = call;
    this.#head = head;
    const { signal, timeout } = sent;
    if (!signal && timeout === undefined) return;
    const timer = timeout === undefined || timeout === Infinity ? undefined : setTimeout(late, timeout, new WeakRef(this), timeout);
    const aborted = signal ? listen(signal, new WeakRef(this)) : undefined;
    if (signal) forgotten.register(this, { signal, aborted: aborted! }, this);
    this.#release = () => {
      clearTimeout(timer);
      if (aborted) signal?.removeEventListener("abort", aborted);
      forgotten.unregister(this);
    };
    // The head is what the timeout is for.
    if (timer !== undefined) head.then(() => clearTimeout(timer), () => {});
  }

  /** The head of the answer, with its body unless it is a stream. */
  async head(): Promise<Happened> {
    const head = await this.#head;
    if (head.kind === Kind.Cut) throw this.#cut();
    if (head.payload !== null) this.end();
    return head;
  }

  /** The next piece of a stream; `null` at its end. */
  async pull(): Promise<Payload | null> {
    if (this.#failed) throw this.#failed.error;
    if (!this.#call) return null;
    const next = waitFor(this.#connection.waiting, this.#id);
    this.#call.pull();
    const happened = await next;
    if (happened.kind === Kind.Data) return happened.payload;
    if (happened.kind === Kind.Cut) throw this.#cut();
    this.end();
    return null;
  }

  /** Ends the call with an error for whoever waits for it. */
  fail(error: unknown): void {
    if (!this.#call) return;
    this.#failed = { error };
    this.end();
  }

  /** Ends the call. */
  end(): void {
    this.#release?.();
    this.#release = undefined;
    const call = this.#call;
    this.#call = undefined;
    const waiter = take(this.#connection.waiting, this.#id);
    waiter?.reject(this.#failed?.error ?? new APIUserAbortError());
    call?.cancel();
  }

  #cut(): APIError {
    this.end();
    return closedError("the gateway was closed before the call was over");
  }
}
