/** Embeddings in OpenAI's shape. */

export interface EmbeddingCreateParams {
  model: string;
  /** A text, texts, token ids, or lists of token ids; at most 2,048. */
  input: string | string[] | number[] | number[][];
  dimensions?: number;
  /** `base64` is of little-endian float32. */
  encoding_format?: "float" | "base64";
  user?: string;
  /** The user that the call is made for. */
  user_id?: string | null;
  /** Anything else that the provider knows. */
  [field: string]: unknown;
}

export interface EmbeddingList {
  object: "list";
  model: string;
  data: Embedding[];
  usage?: { prompt_tokens: number; total_tokens: number };
}

export interface Embedding {
  object: "embedding";
  index: number;
  /** A string where `encoding_format: "base64"` was asked for. */
  embedding: number[];
}
