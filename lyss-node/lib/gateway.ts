/** The gateway, as programs use it. */

import { fileURLToPath } from "node:url";
import { Client, type ClientOptions, type Query, type RequestOptions } from "./client";
import { Connection, type Source } from "./connection";
import { fetchThrough } from "./fetch";
import type { WithMeta } from "./meta";
import type { APIPromise } from "./promise";
import type { Provider } from "./provider";
import { Admin } from "./resources/admin";
import { Chat } from "./resources/chat";
import { Embeddings, Models, Tokens } from "./resources/models";
import { Requests, Sessions } from "./resources/sessions";
import type { Stream } from "./stream";
import type { Health, List, Ready, UsageParams, UsageTotal } from "./types/records";

/** How a gateway is opened. */
export interface OpenOptions extends ClientOptions {
  /** Where database, spool and generated keys are kept, where no configuration is given. */
  dataDir?: string;
}

/** How a service is called. */
export interface ConnectOptions extends Omit<ClientOptions, "apiKey"> {
  /** The key of the calls; none for a service that asks for none. `withOptions({ apiKey })` makes calls with another. */
  apiKey?: string;
  /** Milliseconds for name resolution, TCP and TLS together; 5,000 by default. */
  connectTimeout?: number;
  /** A PEM file of further certificate authorities to trust. */
  caFile?: string;
  /** An HTTP proxy, `http://[user:password@]host[:port]`. */
  proxy?: string;
}

/** How a gateway ends. */
export interface CloseOptions {
  /** Milliseconds that running calls have to end on their own; 5,000 by default. */
  timeout?: number;
}

/**
 * An AI gateway: an engine in this process, or a connection to a service; both are used alike.
 *
 * ```ts
 * await using gw = await Gateway.open("gateway.yaml");
 * const answer = await gw.chat.completions.create({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hi" }] });
 * console.log(answer.choices[0]?.message.content, answer.meta.provider);
 * ```
 *
 * An open gateway does not keep the process alive. One that is not closed writes what it has recorded when the process,
 * or the worker, ends, and ends itself when it is collected.
 */
export class Gateway implements AsyncDisposable {
  readonly chat: Chat;
  readonly embeddings: Embeddings;
  readonly models: Models;
  readonly sessions: Sessions;
  readonly requests: Requests;
  readonly tokens: Tokens;
  readonly admin: Admin;
  /**
   * The whole HTTP surface as a `fetch`, without a socket, for the SDKs that take one:
   * `new OpenAI({ apiKey: "-", baseURL: "http://lyss/v1", fetch: gw.fetch })`.
   */
  readonly fetch: (input: string | URL | Request, init?: RequestInit) => Promise<Response>;
  #client: Client;

  private constructor(client: Client) {
    this.#client = client;
    this.chat = new Chat(client);
    this.embeddings = new Embeddings(client);
    this.models = new Models(client);
    this.sessions = new Sessions(client);
    this.requests = new Requests(client);
    this.tokens = new Tokens(client);
    this.admin = new Admin(client);
    this.fetch = (input, init) => fetchThrough(client, input, init);
  }

  /**
   * Starts an engine in this process.
   *
   * `config`: the path of a YAML file, whose changes come into force while the gateway runs; or the configuration as an
   * object; or nothing, for the embedded default: SQLite, the providers whose keys are in the environment, and
   * `simulated/echo`.
   *
   * Throws a `ConfigError` with everything that is wrong with the configuration.
   */
  static async open(config?: string | URL | object | null, options: OpenOptions = {}): Promise<Gateway> {
    const { dataDir, ...client } = options;
    return new Gateway(new Client(await Connection.open(sourceOf(config, dataDir)), client));
  }

  /**
   * Connects to a Lyss service at `http://host:8000`, with or without `/v1`. The connection is made by the first call;
   * one that cannot be made is an `APIConnectionError` of that call.
   */
  static connect(url: string | URL, options: ConnectOptions = {}): Gateway {
    const { apiKey, connectTimeout, caFile, proxy, ...client } = options;
    const remote = { url: String(url), api_key: apiKey, connect_timeout_ms: connectTimeout, ca_file: caFile, proxy };
    return new Gateway(new Client(Connection.connect(JSON.stringify(remote)), client));
  }

  /** The same gateway with calls made for somebody else, or in another way. Nothing needs to be closed. */
  withOptions(options: ClientOptions): Gateway {
    const { connection, options: own } = this.#client;
    const headers = own.headers || options.headers ? { ...own.headers, ...options.headers } : undefined;
    return new Gateway(new Client(connection, { ...own, ...options, ...(headers ? { headers } : {}) }));
  }

  /** Totals of requests, tokens and cost. */
  usage(params: UsageParams = {}, options?: RequestOptions): APIPromise<List<UsageTotal> & WithMeta> {
    return this.#client.json("GET", "/v1/usage", { query: { ...params } as Query }, options);
  }

  /** Whether what the gateway depends on answers. */
  health(options?: RequestOptions): APIPromise<Health & WithMeta> {
    return this.#client.json("GET", "/health", {}, options);
  }

  /** Whether calls are taken; throws an `InternalServerError` with status 503 where not. */
  ready(options?: RequestOptions): APIPromise<Ready & WithMeta> {
    return this.#client.json("GET", "/ready", {}, options);
  }

  /** Any call of the HTTP API, such as `gw.request("GET", "/v1/openapi.json")`. A string is sent as it is. */
  request<T extends object = Record<string, unknown>>(
    method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE",
    path: string,
    options: RequestOptions & { body?: object | string | null } = {},
  ): APIPromise<(T & WithMeta) | Stream<T>> {
    const { body, ...rest } = options;
    const parts = body == null ? {} : typeof body === "string" ? { raw: body } : { body };
    return this.#client.either<T, T>(method, path, parts, rest);
  }

  /**
   * Takes a provider of your own into use, or replaces the one of this id: the model `id/name` goes to it, and each of
   * `models` without the prefix where no rule says otherwise. Embedded gateways only.
   */
  registerProvider(id: string, provider: Provider, options: { models?: string[] } = {}): void {
    const { connection } = this.#client;
    const models = options.models ?? [];
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(id)) throw new TypeError(`\`${id}\` is no id of a provider: letters, digits, \`.\`, \`_\` and \`-\`, at most 64`);
    const methods = [provider?.chat, provider?.chatStream, provider?.embeddings];
    if (!methods.some((method) => typeof method === "function")) throw new TypeError("a provider has at least one of the methods `chat`, `chatStream` and `embeddings`");
    connection.native.registerProvider(id, models);
    connection.providers.set(id, provider, models);
  }

  /** Waits for running calls, ends what still runs after `timeout`, and writes what is recorded. */
  close(options: CloseOptions = {}): Promise<void> {
    return this.#client.connection.close(options.timeout ?? 5000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function sourceOf(config: string | URL | object | null | undefined, dataDir: string | undefined): Source {
  if (config == null) return { kind: "default", text: dataDir ?? "" };
  if (dataDir !== undefined) throw new TypeError("`dataDir` is for the embedded default; a configuration names it as `data.dir`");
  if (config instanceof URL) return { kind: "file", text: fileURLToPath(config) };
  if (typeof config === "string") return { kind: "file", text: config };
  // JSON is YAML.
  return { kind: "text", text: JSON.stringify(config) };
}
