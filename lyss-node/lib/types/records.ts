/** What the gateway itself keeps: models, sessions, the request log, usage. */

/** All of a listing. */
export interface List<T> {
  object: "list";
  data: T[];
}
/** Which page. */
export interface PageParams {
  cursor?: string;
  limit?: number;
}

export interface Model {
  id: string;
  object: "model";
  created: number;
  owned_by: string;
  /** The configured provider that serves it first. */
  provider: string;
  /** The context window in tokens. */
  max_tokens?: number | null;
  /** Of a million tokens, a decimal in `currency`. */
  input_price?: string | null;
  output_price?: string | null;
  currency?: string | null;
}

export interface Session {
  id: string;
  object: "session";
  user_id: string;
  message_count: number;
  token_count: number;
  created_at: string;
  last_activity: string;
  status: "active" | "compressing";
  metadata?: Record<string, unknown> | null;
}
export interface SessionCreateParams {
  /** Absent or `new` for a fresh id. */
  id?: string;
  user_id?: string;
  metadata?: Record<string, unknown>;
}
export interface SessionMessage {
  seq: number;
  turn: number;
  tokens: number;
  /** Whether it is no longer sent to the model itself: a summary stands for it, or it is left out. */
  compressed: boolean;
  /** The message as it came. */
  message: { role: string; content?: unknown; [member: string]: unknown };
}

export interface TokenCount {
  object: "token_count";
  model: string;
  /** The name that would go upstream. */
  upstream_model: string;
  tokenizer: "o200k_base" | "cl100k_base" | "estimate";
  /** The whole prompt: the sum of all that follows. */
  input_tokens: number;
  messages: number[];
  tools: number;
  response_format: number;
  reply: number;
}

/** A row of the request log. */
export interface RequestRecord {
  request_id: string;
  created_at: string;
  user_id: string;
  session_id?: string | null;
  api_key_id?: string | null;
  model_name: string;
  provider_id: string;
  input_tokens: number;
  output_tokens: number;
  cached_tokens: number;
  cache_write_tokens?: number;
  reasoning_tokens: number;
  usage_source: "reported" | "counted" | "partial";
  latency_ms: number;
  ttft_ms?: number | null;
  status: "success" | "error" | "cancelled" | "rejected" | "aborted";
  error_code?: string | null;
  error_message?: string | null;
  attempts: number;
  purpose: "chat" | "embedding" | "summary";
  stream: boolean;
  client_request_id?: string | null;
  /** In 1e-12 of `currency`. */
  user_charge_pico: number;
  provider_cost_pico: number;
  currency?: string | null;
  price_id?: string | null;
  decision?: RoutingDecision | null;
}
/** Why the request went where it went. */
export interface RoutingDecision {
  provider_id?: string;
  model_name?: string;
  /** Shown to admins only. */
  endpoint?: string;
  weight?: number;
  latency_ms?: number;
  selected_at?: string;
  source?: string;
  replay_of?: string;
  candidates?: { provider_id: string; model_name: string; priority: number; weight: number; reason: string }[];
  attempts?: {
    provider_id: string;
    model_name: string;
    started_ms: number;
    latency_ms: number;
    outcome: string;
    upstream_status?: number;
    error?: string;
  }[];
  [member: string]: unknown;
}
export interface RequestListParams extends PageParams {
  user_id?: string;
  session_id?: string;
  status?: RequestRecord["status"];
  model?: string;
  /** A time (RFC 3339) or a date. */
  from?: string;
  to?: string;
}

export type UsageGroup = "day" | "model" | "user" | "key" | "provider";
export interface UsageParams {
  /** A time (RFC 3339) or a date. */
  from?: string;
  to?: string;
  by?: UsageGroup | UsageGroup[];
  user_id?: string;
}
/** Totals of one group; it has the members named in `by`, too. */
export interface UsageTotal {
  requests: number;
  failed_requests: number;
  input_tokens: number;
  output_tokens: number;
  cached_tokens: number;
  reasoning_tokens: number;
  unpriced_requests: number;
  cost: {
    currency: string;
    /** What was charged for delivered answers, a decimal; `null` where a currency has no exchange rate. */
    user_charge: string | null;
    provider_cost: string | null;
    by_currency: { currency: string; user_charge: string; provider_cost: string }[];
  };
  day?: string;
  model?: string;
  user?: string;
  key?: string;
  provider?: string;
}

export interface Health {
  status: { database: boolean; redis: boolean; providers: boolean };
  healthy: boolean;
  timestamp: number;
}
export interface Ready {
  ready: boolean;
  /** What is away without stopping the gateway, or why it is not ready. */
  degraded: string[];
}
