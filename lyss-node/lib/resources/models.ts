/** `gw.models`, `gw.embeddings`, `gw.tokens` */

import { below, type Client, type RequestOptions } from "../client";
import type { WithMeta } from "../meta";
import type { APIPromise } from "../promise";
import type { ChatCompletionCreateParamsBase } from "../types/chat";
import type { EmbeddingCreateParams, EmbeddingList } from "../types/embeddings";
import type { List, Model, TokenCount } from "../types/records";

export class Models {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  /** The models that the caller may use. */
  list(options?: RequestOptions): APIPromise<List<Model> & WithMeta> {
    return this.#client.json("GET", "/v1/models", {}, options);
  }

  retrieve(id: string, options?: RequestOptions): APIPromise<Model & WithMeta> {
    return this.#client.json("GET", below("/v1/models", id), {}, options);
  }
}

export class Embeddings {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  create(params: EmbeddingCreateParams, options?: RequestOptions): APIPromise<EmbeddingList & WithMeta> {
    return this.#client.json("POST", "/v1/embeddings", { body: params, user: "body" }, options);
  }
}

export class Tokens {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  /** How many tokens the prompt of a chat request has; nothing is sent to a provider. */
  count(params: ChatCompletionCreateParamsBase, options?: RequestOptions): APIPromise<TokenCount & WithMeta> {
    return this.#client.json("POST", "/v1/tokens", { body: params, user: "body" }, options);
  }
}
