/** Chat completions in OpenAI's shape, with the gateway's own fields. Fields not named here travel untouched. */

export interface ChatCompletionCreateParamsBase {
  /** A model the gateway routes: a name of its rules or providers, or `provider/model`. */
  model: string;
  messages: ChatCompletionMessageParam[];
  /** The conversation that this turn belongs to: stored by the gateway and put before the messages. `new` begins one. */
  session_id?: string | null;
  /** The user that the call is made for: owner of the session, payer of the budget. */
  user_id?: string | null;
  frequency_penalty?: number | null;
  logit_bias?: Record<string, number> | null;
  logprobs?: boolean | null;
  max_completion_tokens?: number | null;
  max_tokens?: number | null;
  metadata?: Record<string, string> | null;
  n?: number | null;
  parallel_tool_calls?: boolean;
  presence_penalty?: number | null;
  reasoning_effort?: string | null;
  response_format?: ResponseFormat;
  seed?: number | null;
  stop?: string | null | string[];
  stream_options?: { include_usage?: boolean } | null;
  temperature?: number | null;
  tool_choice?: ChatCompletionToolChoiceOption;
  tools?: ChatCompletionTool[];
  top_logprobs?: number | null;
  top_p?: number | null;
  user?: string;
  /** Anything else that the provider knows. */
  [field: string]: unknown;
}

export interface ChatCompletionCreateParamsNonStreaming extends ChatCompletionCreateParamsBase {
  stream?: false | null;
}
export interface ChatCompletionCreateParamsStreaming extends ChatCompletionCreateParamsBase {
  stream: true;
}
export type ChatCompletionCreateParams = ChatCompletionCreateParamsNonStreaming | ChatCompletionCreateParamsStreaming;

export type ChatCompletionMessageParam =
  | { role: "system" | "developer"; content: string | ChatCompletionContentPartText[]; name?: string }
  | { role: "user"; content: string | ChatCompletionContentPart[]; name?: string }
  | {
      role: "assistant";
      content?: string | (ChatCompletionContentPartText | { type: "refusal"; refusal: string })[] | null;
      refusal?: string | null;
      name?: string;
      tool_calls?: ChatCompletionMessageToolCall[];
    }
  | { role: "tool"; content: string | ChatCompletionContentPartText[]; tool_call_id: string }
  | { role: "function"; content: string | null; name: string };

export interface ChatCompletionContentPartText {
  type: "text";
  text: string;
}
export type ChatCompletionContentPart =
  | ChatCompletionContentPartText
  | { type: "image_url"; image_url: { url: string; detail?: "auto" | "low" | "high" } }
  | { type: "input_audio"; input_audio: { data: string; format: "wav" | "mp3" } }
  | { type: "file"; file: { file_data?: string; file_id?: string; filename?: string } };

export interface FunctionDefinition {
  name: string;
  description?: string;
  /** A JSON schema. */
  parameters?: Record<string, unknown>;
  strict?: boolean | null;
}
export interface ChatCompletionTool {
  type: "function";
  function: FunctionDefinition;
}
export type ChatCompletionToolChoiceOption = "none" | "auto" | "required" | { type: "function"; function: { name: string } };
export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; json_schema: { name: string; description?: string; schema?: Record<string, unknown>; strict?: boolean | null } };

export interface ChatCompletionMessageToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  created: number;
  model: string;
  choices: ChatCompletionChoice[];
  usage?: CompletionUsage;
  service_tier?: string | null;
  system_fingerprint?: string;
}
export interface ChatCompletionChoice {
  index: number;
  message: ChatCompletionMessage;
  finish_reason: FinishReason;
  logprobs?: ChatCompletionLogprobs | null;
}
export type FinishReason = "stop" | "length" | "tool_calls" | "content_filter" | "function_call";
export interface ChatCompletionMessage {
  role: "assistant";
  content: string | null;
  refusal?: string | null;
  tool_calls?: ChatCompletionMessageToolCall[];
}
export interface ChatCompletionLogprobs {
  content: ChatCompletionTokenLogprob[] | null;
  refusal?: ChatCompletionTokenLogprob[] | null;
}
export interface ChatCompletionTokenLogprob {
  token: string;
  bytes: number[] | null;
  logprob: number;
  top_logprobs: { token: string; bytes: number[] | null; logprob: number }[];
}
export interface CompletionUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number; audio_tokens?: number };
  completion_tokens_details?: { reasoning_tokens?: number; audio_tokens?: number };
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: ChatCompletionChunkChoice[];
  /** In the last chunk, which has no choices, with `stream_options: { include_usage: true }`. */
  usage?: CompletionUsage | null;
  service_tier?: string | null;
  system_fingerprint?: string;
}
export interface ChatCompletionChunkChoice {
  index: number;
  delta: ChatCompletionDelta;
  finish_reason: FinishReason | null;
  logprobs?: ChatCompletionLogprobs | null;
}
export interface ChatCompletionDelta {
  role?: "system" | "developer" | "user" | "assistant" | "tool";
  content?: string | null;
  refusal?: string | null;
  tool_calls?: { index: number; id?: string; type?: "function"; function?: { name?: string; arguments?: string } }[];
}
