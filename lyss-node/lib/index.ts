/** Lyss: an AI gateway in this process, or a connection to one. */

export { Gateway, type CloseOptions, type ConnectOptions, type OpenOptions } from "./gateway";
export type { ClientOptions, Query, QueryValue, RequestOptions } from "./client";
export {
  APIConnectionError,
  APIConnectionTimeoutError,
  APIError,
  APITimeoutError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  BudgetExceededError,
  ConfigError,
  ConflictError,
  InternalServerError,
  LyssError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
  UnprocessableEntityError,
  type ErrorBody,
} from "./errors";
export { Meta, type WithMeta } from "./meta";
export { APIPromise } from "./promise";
export { Page } from "./page";
export { Stream } from "./stream";
export type { ChatAnswer, ChatPiece, EmbeddingAnswer, Provider, ProviderContext } from "./provider";
export type { Chat, Completions } from "./resources/chat";
export type { Embeddings, Models, Tokens } from "./resources/models";
export type { Owner, Requests, Sessions } from "./resources/sessions";
export type { Admin, Entries, Keys } from "./resources/admin";
export type * from "./types/chat";
export type * from "./types/embeddings";
export type * from "./types/records";
export type * from "./types/admin";
