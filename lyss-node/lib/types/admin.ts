/** What admins change: keys, budgets, prices, providers, routing rules. */

export type Scope = "chat" | "embeddings" | "sessions" | "usage" | "admin";
export type OnDisconnect = "cancel" | "drain" | { drain_until: { seconds?: number; tokens?: number } };

export interface ApiKeyLimits {
  name?: string;
  /** All but `admin` where none are given. */
  scopes?: Scope[] | null;
  /** `null` for all. */
  models?: string[] | null;
  /** Requests in any 60 s. */
  rpm?: number | null;
  /** Tokens in any 60 s. */
  tpm?: number | null;
  /** Requests at once. */
  concurrent?: number | null;
  budget?: { amount: string; currency: string; period: "day" | "month" | "total" } | null;
  on_disconnect?: OnDisconnect | null;
  expires_at?: string | null;
}
export interface ApiKeyCreateParams extends ApiKeyLimits {
  /** The user that it speaks for; `null` if its calls may name one. */
  user_id?: string | null;
  admin?: boolean;
}
export interface ApiKey extends ApiKeyLimits {
  object: "api_key";
  id: string;
  state: "active" | "expired" | "revoked";
  user_id: string | null;
  created_at: string;
  revoked_at?: string | null;
  [member: string]: unknown;
}
/** A key just made or rotated: the only time that its text is shown. */
export interface IssuedApiKey extends ApiKey {
  /** `lyss_<id>_<secret>` */
  key: string;
}

export interface BudgetParams {
  /** A user, a key, a session (`*` for each by itself), or everybody together: exactly one of them. */
  user?: string | null;
  key?: string | null;
  session?: string | null;
  total?: boolean;
  /** A decimal. */
  amount: string;
  /** `billing.currency` where absent. */
  currency?: string | null;
  period: "day" | "month" | "total";
}
export interface Budget extends BudgetParams {
  /** `null` for those of the configuration. */
  id: number | null;
  source: "api" | "config";
  spent?: string;
  reserved?: string;
  left?: string;
  renews_at?: string | null;
}

export interface Rates {
  /** Per million tokens, with at most 6 decimals; shown as a string. */
  input: string | number;
  output: string | number;
  cached_input?: string | number | null;
  cache_write?: string | number | null;
  reasoning?: string | number | null;
}
export interface PriceParams extends Rates {
  /** The model name that goes upstream. */
  model: string;
  /** The only provider it holds for. */
  provider?: string | null;
  currency: string;
  valid_from?: string | null;
  /** Other rates for the whole request once its input is longer. */
  tiers?: (Rates & { above_input_tokens: number })[];
  max_output_tokens?: number | null;
}
export interface Price extends PriceParams {
  id: number;
}

export interface RoutingRuleParams {
  /** The model that callers ask for. */
  model_name: string;
  provider_id: string;
  /** The tier; 1 is tried first. */
  priority?: number;
  /** The share within the tier; 0 takes no traffic. */
  weight?: number;
  max_rps?: number | null;
  is_enabled?: boolean;
  /** The name that goes upstream; absent for the same. */
  upstream_model?: string | null;
}
export interface RoutingRule extends RoutingRuleParams {
  id: number;
}

export interface ProviderParams {
  enabled?: boolean;
  /** The protocol: `openai`, `dashscope`, `ollama`, `simulated`. */
  kind?: string;
  /** An OpenAI-compatible service whose defaults apply, such as `deepseek`. */
  preset?: string;
  base_url?: string;
  /** Public model names, and the names sent on. */
  models?: Record<string, string>;
  weight?: number;
  max_rps?: number;
  api_key?: string;
  api_keys?: string[];
  headers?: Record<string, string>;
  timeout?: string;
  [setting: string]: unknown;
}
export interface ProviderInfo {
  id: string;
  source: "config" | "database";
  enabled: boolean;
  disabled_reason?: string;
  /** The last four characters of each. */
  api_keys: string[];
  /** Names only. */
  headers: string[];
  [setting: string]: unknown;
}
