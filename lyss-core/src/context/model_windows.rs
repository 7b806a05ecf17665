//! How many tokens of prompt well-known models take.
//!
//! # Source
//! `max_input_tokens` of the model list in PyPI's `litellm` 1.106.2, dated 2026-10-21, which cites the vendors' own pages.
//! For some models that is the whole window and for some the part that a prompt may take; what is reserved for the answer
//! is taken off either, which is right for the first and careful for the second. Models that are not here have no known
//! window. `providers.<id>.context_windows` and what a provider itself lists win over this table.

/// By upstream name, in byte order.
const WINDOWS: &[(&str, u64)] = &[
    ("claude-haiku-4-5", 200_000),
    ("claude-haiku-5-5", 1_000_000),
    ("claude-opus-4-5", 200_000),
    ("claude-opus-5", 1_000_000),
    ("claude-opus-5-5", 1_000_000),
    ("claude-sonnet-4-5", 200_000),
    ("claude-sonnet-4-6", 1_000_000),
    ("claude-sonnet-5", 1_000_000),
    ("claude-sonnet-5-5", 1_000_000),
    ("deepseek-chat", 131_072),
    ("deepseek-reasoner", 131_072),
    ("deepseek-v4-flash", 1_000_000),
    ("deepseek-v4-pro", 1_000_000),
    ("gemini-2.5-flash", 1_048_576),
    ("gemini-2.5-flash-lite", 1_048_576),
    ("gemini-2.5-pro", 1_048_576),
    ("gemini-3-flash-preview", 1_048_576),
    ("gemini-3.1-flash-lite", 1_048_576),
    ("gemini-3.1-pro-preview", 1_048_576),
    ("gemini-3.5-flash", 1_048_576),
    ("gemini-3.6-flash", 1_048_576),
    ("gemini-3.7-flash", 1_048_576),
    ("gemini-3.8-flash", 1_048_576),
    ("gpt-3.5-turbo", 16_385),
    ("gpt-4.1", 1_047_576),
    ("gpt-4.1-mini", 1_047_576),
    ("gpt-4.1-nano", 1_047_576),
    ("gpt-4o", 128_000),
    ("gpt-4o-mini", 128_000),
    ("gpt-5", 272_000),
    ("gpt-5-mini", 272_000),
    ("gpt-5-nano", 272_000),
    ("gpt-5.1", 272_000),
    ("gpt-5.2", 272_000),
    ("gpt-5.4", 1_050_000),
    ("gpt-5.4-mini", 272_000),
    ("gpt-5.4-nano", 272_000),
    ("gpt-5.5", 1_050_000),
    ("gpt-5.6-luna", 922_000),
    ("gpt-5.6-sol", 922_000),
    ("gpt-5.6-terra", 922_000),
    ("gpt-6-astra", 922_000),
    ("gpt-6-luna", 922_000),
    ("gpt-6-sol", 922_000),
    ("gpt-6.1-sol", 922_000),
    ("o1", 200_000),
    ("o3", 200_000),
    ("o3-mini", 200_000),
    ("o4-mini", 200_000),
    ("qwen-flash", 997_952),
    ("qwen-long", 10_000_000),
    ("qwen-max", 30_720),
    ("qwen-plus", 129_024),
    ("qwen-turbo", 129_024),
    ("qwen3-coder-plus", 997_952),
    ("qwen3-max", 258_048),
    ("qwen3-vl-plus", 260_096),
    ("qwen3.5-plus", 991_808),
    ("qwen3.7-max", 991_808),
    ("qwen3.7-plus", 991_808),
    ("qwen3.8-flash", 991_808),
    ("qwen3.8-max", 991_808),
    ("qwq-plus", 98_304),
];

/// The window of a model by the name that goes upstream, in tokens. A prefix of who serves it (`openai/`) and what
/// follows a known name as its date or release (`-2024-08-06`, `-latest`, `:free`) do not matter.
pub fn known_window(upstream_model: &str) -> Option<u64> {
    let name = upstream_model
        .rsplit_once('/')
        .map_or(upstream_model, |(_, name)| name);
    let mut end = name.len();
    loop {
        let shorter = name.get(..end)?;
        if let Ok(at) = WINDOWS.binary_search_by_key(&shorter, |(name, _)| name) {
            return WINDOWS.get(at).map(|(_, tokens)| *tokens);
        }
        end = shorter.rfind(['-', ':', '@'])?;
        if !is_release(name.get(end + 1..).unwrap_or_default()) {
            return None;
        }
    }
}

/// Whether what follows a name is a date or a release of the same model, not another model (`-mini`).
fn is_release(suffix: &str) -> bool {
    suffix.split(['-', ':', '@']).all(|part| {
        matches!(part, "latest" | "preview" | "free")
            || (part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        assert!(WINDOWS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn releases_of_a_model_have_its_window() {
        for (name, window) in [
            ("gpt-4o", Some(128_000)),
            ("openai/gpt-4o-2024-08-06", Some(128_000)),
            ("gpt-3.5-turbo-0125", Some(16_385)),
            ("qwen-max-latest", Some(30_720)),
            ("qwen-max-2025-01-25", Some(30_720)),
            ("gpt-4o-mini", Some(128_000)),
            ("gpt-4o-audio", None),
            ("gpt-4o-3", None),
            ("gpt-4", None),
            ("", None),
            ("-", None),
            ("a/", None),
            ("é-ü:", None),
        ] {
            assert_eq!(known_window(name), window, "{name}");
        }
    }
}
