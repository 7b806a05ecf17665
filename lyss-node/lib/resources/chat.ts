/** `gw.chat.completions` */

import type { Client, RequestOptions } from "../client";
import type { WithMeta } from "../meta";
import type { APIPromise } from "../promise";
import type { Stream } from "../stream";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionCreateParams,
  ChatCompletionCreateParamsBase,
  ChatCompletionCreateParamsNonStreaming,
  ChatCompletionCreateParamsStreaming,
} from "../types/chat";

export class Completions {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  /** Asks a model for an answer: whole, or with `stream: true` as it comes. */
  create(params: ChatCompletionCreateParamsNonStreaming, options?: RequestOptions): APIPromise<ChatCompletion & WithMeta>;
  create(params: ChatCompletionCreateParamsStreaming, options?: RequestOptions): APIPromise<Stream<ChatCompletionChunk>>;
  create(
    params: ChatCompletionCreateParamsBase & { stream?: boolean | null },
    options?: RequestOptions,
  ): APIPromise<(ChatCompletion & WithMeta) | Stream<ChatCompletionChunk>>;
  create(
    params: ChatCompletionCreateParams | (ChatCompletionCreateParamsBase & { stream?: boolean | null }),
    options?: RequestOptions,
  ): APIPromise<(ChatCompletion & WithMeta) | Stream<ChatCompletionChunk>> {
    return this.#client.either("POST", "/v1/chat/completions", { body: params, user: "body" }, options);
  }
}

export class Chat {
  readonly completions: Completions;
  /** @internal */
  constructor(client: Client) {
    this.completions = new Completions(client);
  }
}
