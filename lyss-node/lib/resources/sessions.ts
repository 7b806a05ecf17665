/** `gw.sessions`, `gw.requests`: what the gateway keeps of conversations and calls. */

import { below, type Client, type RequestOptions } from "../client";
import type { WithMeta } from "../meta";
import type { Page } from "../page";
import type { APIPromise } from "../promise";
import type {
  PageParams,
  RequestListParams,
  RequestRecord,
  Session,
  SessionCreateParams,
  SessionMessage,
} from "../types/records";

/** Whose. The process itself names a user here, or by `withOptions({ userId })`; the holder of a key needs none. */
export interface Owner {
  user_id?: string;
}

export class Sessions {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  create(params: SessionCreateParams = {}, options?: RequestOptions): APIPromise<Session & WithMeta> {
    return this.#client.json("POST", "/v1/sessions", { body: params, user: "body" }, options);
  }

  list(params: Owner & PageParams = {}, options?: RequestOptions): APIPromise<Page<Session>> {
    return this.#client.page("/v1/sessions", { ...params }, options);
  }

  retrieve(id: string, params: Owner = {}, options?: RequestOptions): APIPromise<Session & WithMeta> {
    return this.#client.json("GET", below("/v1/sessions", id), { query: { ...params } }, options);
  }

  /** The stored messages, oldest first. */
  messages(id: string, params: Owner & PageParams & { after?: number } = {}, options?: RequestOptions): APIPromise<Page<SessionMessage>> {
    return this.#client.page(below("/v1/sessions", id, "/messages"), { ...params }, options);
  }

  /** Forgets a session; also done if there was none. */
  delete(id: string, params: Owner = {}, options?: RequestOptions): Promise<void> {
    return this.#client.done("DELETE", below("/v1/sessions", id), { query: { ...params } }, options);
  }
}

export class Requests {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  /** The request log, newest first. A call is in it a moment after its answer. */
  list(params: RequestListParams = {}, options?: RequestOptions): APIPromise<Page<RequestRecord>> {
    return this.#client.page("/v1/requests", { ...params }, options);
  }

  /** One request with its routing decision: `gw.requests.retrieve(answer.meta.requestId)`. */
  retrieve(id: string, params: Owner = {}, options?: RequestOptions): APIPromise<RequestRecord & WithMeta> {
    return this.#client.json("GET", below("/v1/requests", id), { query: { ...params } }, options);
  }
}
