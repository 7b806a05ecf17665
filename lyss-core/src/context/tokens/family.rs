//! From the name of a model to the way its tokens are counted.

use serde::{Deserialize, Serialize};

use super::{estimate, media::ImageRule};

/// What tokens are counted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// OpenAI's vocabulary of GPT-4o, GPT-4.1, GPT-5, gpt-oss and the o series.
    #[serde(rename = "o200k_base")]
    O200k,
    /// OpenAI's vocabulary of GPT-3.5, GPT-4 and the embedding models.
    #[serde(rename = "cl100k_base")]
    Cl100k,
    /// An estimate by script, for every other vocabulary.
    Estimate,
}

impl Tokenizer {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::O200k => "o200k_base",
            Self::Cl100k => "cl100k_base",
            Self::Estimate => "estimate",
        }
    }
}

/// How one model counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Family {
    pub tokenizer: Tokenizer,
    pub weights: &'static estimate::Weights,
    pub image: ImageRule,
}

/// Names that begin with one of these, and then end or go on with something that is no letter or digit.
///
/// # Source
/// `tiktoken/model.py` of tiktoken 0.14 (`MODEL_TO_ENCODING`, `MODEL_PREFIX_TO_ENCODING`). gpt-oss has `o200k_harmony`, which
/// differs from `o200k_base` in its special tokens only; texts are counted without those.
#[cfg(feature = "tiktoken")]
const O200K: [&str; 13] = [
    "gpt-4o",
    "chatgpt-4o",
    "gpt-4.1",
    "gpt-4.5",
    "gpt-5",
    "gpt-oss",
    "gpt-audio",
    "gpt-realtime",
    "codex-mini",
    "computer-use-preview",
    "o1",
    "o3",
    "o4",
];
#[cfg(feature = "tiktoken")]
const CL100K: [&str; 8] = [
    "gpt-4",
    "gpt-3.5",
    "gpt-35",
    "text-embedding-ada-002",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "davinci-002",
    "babbage-002",
];

/// Alibaba's models: their names begin so.
const QWEN: [&str; 5] = ["qwen", "qwq", "qvq", "tongyi", "text-embedding-v"];

impl Family {
    pub fn of(upstream_model: &str) -> Self {
        let name = bare(upstream_model);
        let weights = match QWEN.iter().any(|known| name.starts_with(known)) {
            true => &estimate::QWEN,
            false => &estimate::GENERAL,
        };
        Self {
            tokenizer: tokenizer(&name),
            weights,
            image: ImageRule::of(&name),
        }
    }

    /// Tokens of a text, uncorrected.
    pub fn text(&self, text: &str) -> u64 {
        match self.tokenizer {
            #[cfg(feature = "tiktoken")]
            Tokenizer::O200k | Tokenizer::Cl100k => self
                .vocabulary()
                .and_then(|vocabulary| vocabulary.count(text))
                .unwrap_or_else(|| estimate::estimate(text, self.weights)),
            _ => estimate::estimate(text, self.weights),
        }
    }

    /// The same model, estimated.
    pub fn estimated(self) -> Self {
        Self {
            tokenizer: Tokenizer::Estimate,
            ..self
        }
    }

    /// Whether a count needs no loading first.
    pub fn is_ready(&self) -> bool {
        #[cfg(feature = "tiktoken")]
        return self
            .vocabulary()
            .is_none_or(|vocabulary| vocabulary.is_loaded());
        #[cfg(not(feature = "tiktoken"))]
        return true;
    }

    /// Loads what a count needs. Blocks.
    pub fn load(&self) {
        self.text("");
    }

    #[cfg(feature = "tiktoken")]
    fn vocabulary(&self) -> Option<&'static super::vocabulary::Vocabulary> {
        match self.tokenizer {
            Tokenizer::O200k => Some(&super::vocabulary::O200K),
            Tokenizer::Cl100k => Some(&super::vocabulary::CL100K),
            Tokenizer::Estimate => None,
        }
    }
}

/// The name without what says where it is served: `openai/gpt-4o`, `openai.gpt-oss-20b-1:0`, `ft:gpt-4o:org::id`,
/// `gpt-oss:20b`.
fn bare(upstream_model: &str) -> String {
    let name = upstream_model.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("ft:").unwrap_or(name);
    let name = name.split(':').next().unwrap_or_default();
    let name = name.strip_prefix("openai.").unwrap_or(name);
    name.to_ascii_lowercase()
}

#[cfg(feature = "tiktoken")]
fn tokenizer(name: &str) -> Tokenizer {
    let is = |known: &&str| {
        name.strip_prefix(known)
            .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
    };
    if O200K.iter().any(is) {
        Tokenizer::O200k
    } else if CL100K.iter().any(is) {
        Tokenizer::Cl100k
    } else {
        Tokenizer::Estimate
    }
}

#[cfg(not(feature = "tiktoken"))]
fn tokenizer(_: &str) -> Tokenizer {
    Tokenizer::Estimate
}

#[cfg(all(test, feature = "tiktoken"))]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_whatever_surrounds_them() {
        for (tokenizer, names) in [
            (
                Tokenizer::O200k,
                &[
                    "gpt-4o",
                    "gpt-4o-mini-2024-07-18",
                    "chatgpt-4o-latest",
                    "gpt-4.1-nano",
                    "gpt-5",
                    "gpt-5.2-codex",
                    "o1",
                    "o3-mini",
                    "o4-mini-2025-04-16",
                    "openai/gpt-4o",
                    "openrouter/openai/o3",
                    "GPT-4o",
                    "ft:gpt-4o-mini:org::id",
                    "gpt-oss:20b",
                    "openai.gpt-oss-120b-1:0",
                ][..],
            ),
            (
                Tokenizer::Cl100k,
                &[
                    "gpt-4",
                    "gpt-4-0613",
                    "gpt-4-turbo",
                    "gpt-4-32k-0314",
                    "gpt-3.5-turbo-16k",
                    "gpt-35-turbo",
                    "text-embedding-3-small",
                    "text-embedding-ada-002",
                ],
            ),
            (
                Tokenizer::Estimate,
                &[
                    "qwen-max",
                    "qwen3-235b-a22b",
                    "claude-sonnet-4",
                    "deepseek-chat",
                    "o1x",
                    "o200",
                    "gpt-40",
                    "gpt-6",
                    "echo",
                    "",
                ],
            ),
        ] {
            for name in names {
                assert_eq!(Family::of(name).tokenizer, tokenizer, "{name}");
            }
        }
        assert_eq!(Family::of("aliyun/Qwen2.5-72B").weights, &estimate::QWEN);
        assert_eq!(Family::of("mistral-large").weights, &estimate::GENERAL);
    }
}
