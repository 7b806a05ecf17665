/** Calls as the resources make them: JSON in, JSON out, errors thrown. */

import type { Connection, Exchange, Happened } from "./connection";
import { errorOfBody } from "./errors";
import { Meta, withMeta, type WithMeta } from "./meta";
import { Page } from "./page";
import { APIPromise } from "./promise";
import { Stream } from "./stream";
import type { List } from "./types/records";

export type QueryValue = string | number | boolean | readonly string[] | null | undefined;
export type Query = Readonly<Record<string, QueryValue>>;

/** What a single call may be given besides its parameters. */
export interface RequestOptions {
  /** Aborting it cancels the call, also upstream; the promise, or the stream, then throws `APIUserAbortError`. */
  signal?: AbortSignal | null;
  /** Milliseconds until the answer, or the beginning of a stream, must be there; none by default. */
  timeout?: number;
  /** Further headers, such as `x-client-request-id`. */
  headers?: Readonly<Record<string, string | null | undefined>>;
  /** Further query parameters. */
  query?: Query;
  /** The same key with the same body is answered from the first call's answer, for a day. */
  idempotencyKey?: string;
}

/** Who calls, and how, where a call says nothing else. */
export interface ClientOptions {
  /** Calls are made as the holder of this API key, with its limits, budgets and user. An empty string is nobody. */
  apiKey?: string;
  /** The user that calls are made for where they name none. */
  userId?: string;
  /** As in `RequestOptions`. */
  timeout?: number;
  /** As in `RequestOptions`. */
  headers?: Readonly<Record<string, string | null | undefined>>;
}

/** What is sent with a call. */
export interface RequestParts {
  /** An object, which becomes JSON. */
  body?: object;
  /** A body that is sent as it is, instead. */
  raw?: string;
  query?: Query;
  /** Where the user goes whom the client's options name: into the body, or the query. */
  user?: "body" | "query";
}

/** A connection and whom it is used for. */
export class Client {
  constructor(
    readonly connection: Connection,
    readonly options: ClientOptions,
  ) {}

  /** Makes a call and reads the answer; `undefined` for one without a body. */
  json<T extends object>(method: string, path: string, parts: RequestParts = {}, options: RequestOptions = {}): APIPromise<T & WithMeta> {
    return APIPromise.of(this.#send(method, path, parts, options).then(({ head, meta }) => parsed<T>(head, meta)));
  }

  /** Reads a page of a listing. */
  page<T>(path: string, query: Query, options: RequestOptions = {}): APIPromise<Page<T>> {
    const follow = (cursor: string) => this.page<T>(path, { ...query, cursor }, options);
    return APIPromise.of(
      this.#send("GET", path, { query }, options).then(({ head, meta }) => new Page(JSON.parse(head.payload as string) as List<T>, meta, follow)),
    );
  }

  /** Makes a call that has nothing to say but that it is done. */
  async done(method: string, path: string, parts: RequestParts = {}, options: RequestOptions = {}): Promise<void> {
    await this.#send(method, path, parts, options);
  }

  /** Makes a call that is answered with a stream of events, or with JSON if the gateway sees fit. */
  either<T extends object, Item>(
    method: string,
    path: string,
    parts: RequestParts = {},
    options: RequestOptions = {},
  ): APIPromise<(T & WithMeta) | Stream<Item>> {
    return APIPromise.of(
      this.#send(method, path, parts, options).then(({ head, meta, exchange }) =>
        head.payload === null ? new Stream<Item>(exchange, meta) : parsed<T>(head, meta),
      ),
    );
  }

  async #send(
    method: string,
    path: string,
    parts: RequestParts,
    options: RequestOptions,
  ): Promise<{ head: Happened; meta: Meta; exchange: Exchange }> {
    const { userId } = this.options;
    let { body } = parts;
    if ("body" in parts && (typeof body !== "object" || body === null)) throw new TypeError(`${path} takes an object, not ${body === null ? "null" : typeof body}`);
    let query = options.query ? { ...parts.query, ...options.query } : parts.query;
    if (userId !== undefined) {
      const target = parts.user === "body" ? (body as Record<string, unknown>) : query;
      if (target?.["user_id"] === undefined) {
        if (parts.user === "body") body = { ...body, user_id: userId };
        else query = { ...query, user_id: userId };
      }
    }
    const exchange = this.connection.start({
      method,
      path: query ? withQuery(path, query) : path,
      headers: this.#headers(options),
      body: parts.raw ?? (body ? JSON.stringify(body) : null),
      key: this.options.apiKey ?? null,
      text: true,
      signal: options.signal,
      timeout: options.timeout ?? this.options.timeout,
    });
    const head = await exchange.head();
    const meta = new Meta(head.text);
    if (head.status >= 400) throw errorOfBody(head.status, (head.payload ?? "") as string, meta);
    return { head, meta, exchange };
  }

  #headers(options: RequestOptions): string[] {
    const headers: string[] = [];
    for (const some of [this.options.headers, options.headers]) {
      if (!some) continue;
      for (const [name, value] of Object.entries(some)) if (value != null) headers.push(name, value);
    }
    if (options.idempotencyKey !== undefined) headers.push("idempotency-key", options.idempotencyKey);
    return headers;
  }
}

function parsed<T extends object>(head: Happened, meta: Meta): T & WithMeta {
  const text = (head.payload ?? "") as string;
  return withMeta((text === "" ? {} : JSON.parse(text)) as T, meta);
}

/** A path with a query; parameters that are null or undefined are left out, lists are joined with commas. */
export function withQuery(path: string, query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value != null) parameters.set(name, Array.isArray(value) ? value.join(",") : String(value));
  }
  const text = parameters.toString();
  return text === "" ? path : `${path}${path.includes("?") ? "&" : "?"}${text}`;
}

/** The path of one thing; ids may hold any character. */
export function below(path: string, id: string | number, rest = ""): string {
  if (id === "" || id == null) throw new TypeError(`the id of what is asked for below ${path} is empty`);
  return `${path}/${encodeURIComponent(String(id))}${rest}`;
}
