//! What a model's name says: which generation path it is bound to, whether it answers without a stream, and how many
//! texts one embeddings call takes.
//!
//! # Source
//! Model Studio's model pages and issues in public clients (agentscope-ai/agentscope#1295, spring-ai-alibaba#4355),
//! read 2026-11-22. A name that is wrong here costs one extra request: the adapter falls back and remembers.

/// The generation path of a model. Each model is bound to exactly one, whatever its messages contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// `/services/aigc/text-generation/generation`.
    Text,
    /// `/services/aigc/multimodal-generation/generation`.
    Multimodal,
}

impl Generation {
    /// The path below the base URL.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Text => "/services/aigc/text-generation/generation",
            Self::Multimodal => "/services/aigc/multimodal-generation/generation",
        }
    }

    /// The other path.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Text => Self::Multimodal,
            Self::Multimodal => Self::Text,
        }
    }

    /// The path that a model's name tells; `None` for a name that is not known.
    pub(super) fn of(model: &str) -> Option<Self> {
        let model = base_name(model);
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| model.starts_with(prefix));
        let multimodal = ["-vl", "-omni", "-audio", "-ocr"]
            .iter()
            .any(|mark| model.contains(mark))
            || starts(&[
                "qvq",
                "qwen3.5-",
                "qwen3.6-",
                "qwen3.7-",
                "qwen3.8-",
                "kimi-k2.5",
            ]);
        if starts(&["qwen3.7-max"]) {
            return Some(Self::Text);
        }
        if multimodal {
            return Some(Self::Multimodal);
        }
        starts(&[
            "qwen", "qwq", "deepseek", "glm", "kimi", "moonshot", "tongyi", "codeqwen",
        ])
        .then_some(Self::Text)
    }
}

/// Whether a model refuses to answer this way without a stream, as far as its name tells.
///
/// Open-weight hybrids think unless told not to, and thinking needs a stream; a stream serves every model, so that a
/// doubt costs nothing.
pub(super) fn needs_stream(model: &str, enable_thinking: Option<bool>) -> bool {
    let model = base_name(model);
    let always = model.starts_with("qwq") || model.starts_with("qvq") || model.contains("-omni");
    let open_weight = model
        .strip_prefix("qwen3-")
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        && !model.contains("-instruct");
    always || enable_thinking == Some(true) || (open_weight && enable_thinking != Some(false))
}

/// How many texts one embeddings call takes.
pub(super) fn embedding_batch(model: &str) -> usize {
    let model = base_name(model);
    if model.ends_with("-v1") || model.ends_with("-v2") {
        25
    } else {
        10
    }
}

/// The name without the owner that some accounts put before it (`siliconflow/deepseek-r1`), in lower case.
fn base_name(model: &str) -> String {
    let name = model.rsplit('/').next().unwrap_or(model);
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_path() {
        for text in [
            "qwen-plus",
            "qwen-max-latest",
            "qwen3-max",
            "qwen3-8b",
            "qwq-32b",
            "qwen3.7-max",
            "deepseek-v3.2",
        ] {
            assert_eq!(Generation::of(text), Some(Generation::Text), "{text}");
        }
        for multimodal in [
            "qwen-vl-max",
            "qwen3-vl-plus",
            "qwen2.5-vl-72b-instruct",
            "qvq-max",
            "qwen3-omni-flash",
            "qwen-audio-turbo",
            "qwen3.5-plus",
            "qwen3.8-max",
            "Qwen3.7-Flash",
        ] {
            assert_eq!(
                Generation::of(multimodal),
                Some(Generation::Multimodal),
                "{multimodal}"
            );
        }
        assert_eq!(Generation::of("llama-9"), None);
    }

    #[test]
    fn names_tell_what_only_streams() {
        assert!(needs_stream("qwq-plus", None));
        assert!(needs_stream("qwen3-8b", None));
        assert!(!needs_stream("qwen3-8b", Some(false)));
        assert!(!needs_stream("qwen3-30b-a3b-instruct-2507", None));
        assert!(!needs_stream("qwen-plus", None));
        assert!(needs_stream("qwen-plus", Some(true)));
        assert!(!needs_stream("qwen3-max", None));
    }
}
