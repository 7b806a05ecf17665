//! OpenAI-compatible services: one row each. Adding one is adding a row.
//!
//! # Source
//! The services' API references as of 2026-11; where they contradict each other the cautious form is taken: what every
//! version of a service accepts.

/// What is known of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name in `providers.<id>.preset`; an id of the same name takes it by default.
    pub id: &'static str,
    /// Where its API is.
    pub base_url: &'static str,
    /// Environment variables that may hold the key, the first that is set wins; empty if it needs none.
    pub env: &'static [&'static str],
    /// How the names of its models begin; empty for services that serve anybody's models.
    pub models: &'static [&'static str],
    /// Where it differs from OpenAI.
    pub quirks: Quirks,
}

/// Where a service differs from OpenAI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Knows the role `developer`; else it is sent as `system`.
    pub developer_role: bool,
    /// Knows `max_completion_tokens`; else it is sent as `max_tokens`.
    pub max_completion_tokens: bool,
    /// Knows `stream_options.include_usage`; else the member is left out.
    pub include_usage: bool,
    /// Serves embeddings.
    pub embeddings: bool,
    /// The most inputs of one embeddings call; longer ones are split and rejoined.
    pub embedding_batch: Option<usize>,
    /// Serves embeddings as numbers only; base64 is made here.
    pub float_embeddings: bool,
}

/// As OpenAI itself.
const OPENAI: Quirks = Quirks {
    developer_role: true,
    max_completion_tokens: true,
    include_usage: true,
    embeddings: true,
    embedding_batch: None,
    float_embeddings: false,
};

/// The older form of the API, which most others took over.
const OLDER: Quirks = Quirks {
    developer_role: false,
    max_completion_tokens: false,
    ..OPENAI
};

const OLDER_CHAT_ONLY: Quirks = Quirks {
    embeddings: false,
    ..OLDER
};

/// The rows.
pub const PRESETS: &[Preset] = &[
    Preset {
        id: "openai",
        base_url: "https://api.openai.com/v1",
        env: &["OPENAI_API_KEY"],
        models: &[
            "gpt-",
            "chatgpt-",
            "o1",
            "o3",
            "o4",
            "text-embedding-3",
            "text-embedding-ada",
        ],
        quirks: OPENAI,
    },
    Preset {
        id: "deepseek",
        base_url: "https://api.deepseek.com/v1",
        env: &["DEEPSEEK_API_KEY"],
        models: &["deepseek-"],
        quirks: OLDER_CHAT_ONLY,
    },
    Preset {
        id: "ollama",
        base_url: "http://127.0.0.1:11434/v1",
        env: &[],
        models: &[],
        quirks: OLDER,
    },
    Preset {
        id: "vllm",
        base_url: "http://127.0.0.1:8000/v1",
        env: &["VLLM_API_KEY"],
        models: &[],
        quirks: Quirks {
            developer_role: false,
            ..OPENAI
        },
    },
    Preset {
        id: "openrouter",
        base_url: "https://openrouter.ai/api/v1",
        env: &["OPENROUTER_API_KEY"],
        models: &[],
        quirks: OPENAI,
    },
    Preset {
        id: "moonshot",
        base_url: "https://api.moonshot.cn/v1",
        env: &["MOONSHOT_API_KEY"],
        models: &["moonshot-", "kimi-"],
        quirks: OLDER_CHAT_ONLY,
    },
    Preset {
        id: "zhipu",
        base_url: "https://open.bigmodel.cn/api/paas/v4",
        env: &["ZHIPU_API_KEY", "ZHIPUAI_API_KEY"],
        models: &["glm-", "embedding-2", "embedding-3"],
        quirks: Quirks {
            embedding_batch: Some(64),
            float_embeddings: true,
            ..OLDER
        },
    },
    Preset {
        id: "siliconflow",
        base_url: "https://api.siliconflow.cn/v1",
        env: &["SILICONFLOW_API_KEY"],
        models: &[],
        quirks: Quirks {
            embedding_batch: Some(32),
            ..OLDER
        },
    },
    Preset {
        id: "groq",
        base_url: "https://api.groq.com/openai/v1",
        env: &["GROQ_API_KEY"],
        models: &[],
        quirks: Quirks {
            developer_role: false,
            embeddings: false,
            ..OPENAI
        },
    },
    Preset {
        id: "together",
        base_url: "https://api.together.xyz/v1",
        env: &["TOGETHER_API_KEY"],
        models: &[],
        quirks: Quirks {
            float_embeddings: true,
            ..OLDER
        },
    },
    Preset {
        id: "mistral",
        base_url: "https://api.mistral.ai/v1",
        env: &["MISTRAL_API_KEY"],
        models: &[
            "mistral-",
            "ministral-",
            "magistral-",
            "codestral-",
            "devstral-",
            "pixtral-",
        ],
        quirks: Quirks {
            // It refuses members that it does not know, and reports usage in the last chunk unasked.
            include_usage: false,
            float_embeddings: true,
            ..OLDER
        },
    },
    Preset {
        id: "xai",
        base_url: "https://api.x.ai/v1",
        env: &["XAI_API_KEY"],
        models: &["grok-"],
        quirks: Quirks {
            developer_role: false,
            embeddings: false,
            ..OPENAI
        },
    },
    Preset {
        id: "dashscope_compatible",
        base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
        env: &["DASHSCOPE_API_KEY", "ALIYUN_API_KEY"],
        models: DASHSCOPE_MODELS,
        quirks: Quirks {
            embedding_batch: Some(10),
            float_embeddings: true,
            ..OLDER
        },
    },
];

/// How the names of DashScope's own models begin, in either of its protocols.
const DASHSCOPE_MODELS: &[&str] = &["qwen", "qwq", "qvq", "text-embedding-v"];

/// The row of a service.
pub fn preset(id: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.id == id)
}

/// Whether a provider of this kind and preset is where a model of this name belongs (decision 8): `qwen-plus` to
/// `dashscope`, `gpt-4o` to `openai`. Services that serve anybody's models know none by name.
pub fn knows(kind: &str, preset_id: Option<&str>, model: &str) -> bool {
    let prefixes = match (kind, preset_id) {
        ("dashscope", _) => DASHSCOPE_MODELS,
        ("openai", id) => preset(id.unwrap_or("openai")).map_or(&[][..], |preset| preset.models),
        _ => &[],
    };
    prefixes.iter().any(|prefix| model.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_usable() {
        for preset in PRESETS {
            assert!(!preset.base_url.ends_with('/'), "{}", preset.id);
            assert!(
                preset.base_url.parse::<http::Uri>().is_ok(),
                "{}",
                preset.id
            );
            assert_eq!(
                PRESETS.iter().filter(|other| other.id == preset.id).count(),
                1,
                "{}",
                preset.id
            );
        }
    }

    #[test]
    fn models_are_known_by_name() {
        for (kind, preset, model, known) in [
            ("openai", None, "gpt-4o-mini", true),
            ("openai", None, "o3-mini", true),
            ("openai", Some("openai"), "text-embedding-3-small", true),
            ("openai", None, "qwen-plus", false),
            ("dashscope", None, "qwen-plus", true),
            ("dashscope", None, "qwen3-max", true),
            ("openai", Some("dashscope_compatible"), "qwen-plus", true),
            ("openai", Some("deepseek"), "deepseek-chat", true),
            ("openai", Some("ollama"), "qwen3:8b", false),
            ("openai", Some("unknown"), "gpt-4o", false),
            ("simulated", None, "gpt-4o", false),
        ] {
            assert_eq!(
                knows(kind, preset, model),
                known,
                "{kind} {preset:?} {model}"
            );
        }
    }
}
