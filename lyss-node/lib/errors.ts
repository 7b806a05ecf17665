/** What goes wrong, as classes: named as those of the `openai` package, chosen by status. */

import { Meta } from "./meta";

/** Everything that this package throws on its own account. */
export class LyssError extends Error {
  override name = "LyssError";
}

/** The configuration is wrong; the message has a line for everything that is wrong with it. */
export class ConfigError extends LyssError {
  override name = "ConfigError";
  constructor(
    /** `file:line:column: key: what is wrong, what is accepted`, one for each mistake. */
    readonly diagnostics: readonly string[],
  ) {
    super(diagnostics.join("\n"));
  }
}

/** The `error` member of an answer: OpenAI's envelope. */
export interface ErrorBody {
  message: string;
  type?: string;
  param?: string | null;
  code?: string | null;
  request_id?: string;
}

/** A call failed. */
export class APIError extends LyssError {
  override name = "APIError";
  /** The HTTP status; absent where there was no answer. */
  readonly status: number | undefined;
  /** What failed, for programs, such as `model_not_found`; the table is in the documentation. */
  readonly code: string | null;
  /** The kind of failure, such as `invalid_request_error`. */
  readonly type: string | undefined;
  /** The field of the request that is wrong. */
  readonly param: string | null;
  /** The gateway's id of the request: the key to its log. */
  readonly requestId: string | null;
  /** Whether the same call may be made again: not where that cannot help, or could be charged twice. */
  readonly shouldRetry: boolean;
  /** Seconds to wait before it is made again. */
  readonly retryAfter: number | null;
  /** The envelope as it came. */
  declare readonly error: ErrorBody | undefined;
  /** What the gateway says about the call. */
  declare readonly meta: Meta;

  /** As in the `openai` package: the status, the envelope, another message, the headers. */
  constructor(status: number | undefined, error: ErrorBody | undefined, message?: string, headers?: Meta | Readonly<Record<string, string>>) {
    const meta = headers instanceof Meta ? headers : Meta.of(headers);
    super(message ?? error?.message ?? (status === undefined ? "the call failed" : `status ${status} without a message`));
    this.status = status;
    this.code = error?.code ?? null;
    this.type = error?.type;
    this.param = error?.param ?? null;
    this.requestId = error?.request_id ?? meta.requestId;
    this.shouldRetry = meta.get("x-should-retry") === "true";
    const pause = Number(meta.get("retry-after") ?? NaN);
    this.retryAfter = Number.isFinite(pause) ? pause : null;
    // Not shown with every error that is printed.
    Object.defineProperty(this, "error", { value: error });
    Object.defineProperty(this, "meta", { value: meta });
  }
}

/** 400: the request is wrong. */
export class BadRequestError extends APIError {
  override name = "BadRequestError";
  declare readonly status: 400;
}
/** 401: no key, or one that is not accepted. */
export class AuthenticationError extends APIError {
  override name = "AuthenticationError";
  declare readonly status: 401;
}
/** 402: a budget does not cover the call. */
export class BudgetExceededError extends APIError {
  override name = "BudgetExceededError";
  declare readonly status: 402;
}
/** 403: the key may not do this. */
export class PermissionDeniedError extends APIError {
  override name = "PermissionDeniedError";
  declare readonly status: 403;
}
/** 404: no such model, session, record or path. */
export class NotFoundError extends APIError {
  override name = "NotFoundError";
  declare readonly status: 404;
}
/** 409: another call is in the way. */
export class ConflictError extends APIError {
  override name = "ConflictError";
  declare readonly status: 409;
}
/** 422: an idempotency key was used with another body. */
export class UnprocessableEntityError extends APIError {
  override name = "UnprocessableEntityError";
  declare readonly status: 422;
}
/** 429: a rate limit, the gateway's or the provider's. */
export class RateLimitError extends APIError {
  override name = "RateLimitError";
  declare readonly status: 429;
}
/** 500 and above: the gateway, what it depends on, or the provider failed. */
export class InternalServerError extends APIError {
  override name = "InternalServerError";
  declare readonly status: number;
}

/** No answer: the service that the gateway is connected to cannot be reached, or was lost before it answered. */
export class APIConnectionError extends APIError {
  override name = "APIConnectionError";
}
/** No answer within `timeout`. */
export class APITimeoutError extends APIConnectionError {
  override name = "APITimeoutError";
  constructor(ms: number) {
    super(undefined, undefined, `no answer within the timeout of ${ms} ms; the call was cancelled`);
  }
}
/** The name that the `openai` package has for it. */
export const APIConnectionTimeoutError = APITimeoutError;
export type APIConnectionTimeoutError = APITimeoutError;

/** The caller's `signal` was aborted, and the call cancelled, also upstream. `cause` is the signal's reason. */
export class APIUserAbortError extends APIError {
  override name = "APIUserAbortError";
  constructor(reason?: unknown) {
    super(undefined, undefined, "the call was aborted");
    this.cause = reason;
  }
}

type Class = new (status: number, error: ErrorBody | undefined, message: string | undefined, headers: Meta) => APIError;

const CLASSES: Record<number, Class> = {
  400: BadRequestError,
  401: AuthenticationError,
  402: BudgetExceededError,
  403: PermissionDeniedError,
  404: NotFoundError,
  409: ConflictError,
  422: UnprocessableEntityError,
  429: RateLimitError,
};

/** The types of an error event, which has no status of its own, and the status that stands for them. */
const STATUS_OF_TYPE: Record<string, number> = {
  invalid_request_error: 400,
  authentication_error: 401,
  billing_error: 402,
  permission_error: 403,
  not_found_error: 404,
  conflict_error: 409,
  rate_limit_error: 429,
  gateway_error: 500,
  upstream_error: 502,
  overloaded_error: 503,
  timeout_error: 504,
};

/** The error that an answer with this status is. */
export function errorOf(status: number, error: ErrorBody | undefined, meta: Meta): APIError {
  if (error?.code === "service_unreachable") return new APIConnectionError(status, error, undefined, meta);
  const known = CLASSES[status] ?? (status >= 500 ? InternalServerError : APIError);
  return new known(status, error, undefined, meta);
}

/** The error that an event of a stream is: the status was sent long before. */
export function errorOfEvent(error: ErrorBody, meta: Meta): APIError {
  return errorOf(STATUS_OF_TYPE[error.type ?? ""] ?? 500, error, meta);
}

/** The error of a body that should hold an envelope. */
export function errorOfBody(status: number, body: string, meta: Meta): APIError {
  let error: ErrorBody | undefined;
  try {
    error = (JSON.parse(body) as { error?: ErrorBody }).error;
  } catch {
    error = body === "" ? undefined : { message: body };
  }
  return errorOf(status, error, meta);
}

/** A gateway that was closed, or is being closed. */
export function closedError(message: string): APIError {
  return errorOf(503, { message, type: "overloaded_error", code: "shutting_down" }, new Meta(""));
}
