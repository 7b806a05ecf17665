//! `providers`: the upstream accounts, and what their ids, kinds and presets mean.

use std::collections::BTreeMap;
use std::time::Duration;

use super::node::{Node, Scalar, Value};
use super::reader::{Reader, Section, non_empty};
use super::secret::Secret;

/// The provider kinds of this crate. An embedding program adds its own with
/// [`Extensions`](super::Extensions).
pub const KNOWN_KINDS: &[&str] = &["openai", "dashscope", "simulated"];

/// Kinds that the configuration's layout names and this version does not have.
pub(super) const LATER_KINDS: &[&str] = &["anthropic", "gemini", "azure_openai"];

/// OpenAI-compatible services known by name; their URLs are the provider module's.
pub const KNOWN_PRESETS: &[&str] = &[
    "deepseek",
    "ollama",
    "vllm",
    "openrouter",
    "moonshot",
    "zhipu",
    "siliconflow",
    "groq",
    "together",
    "mistral",
    "xai",
    "dashscope_compatible",
];

/// Environment variables whose presence configures a provider on the embedded default:
/// (variable, provider id). The first variable of an id that is set wins.
pub const PROVIDER_KEYS: &[(&str, &str)] = &[
    ("OPENAI_API_KEY", "openai"),
    ("ALIYUN_API_KEY", "aliyun"),
    ("DASHSCOPE_API_KEY", "aliyun"),
    ("ANTHROPIC_API_KEY", "anthropic"),
    ("GEMINI_API_KEY", "gemini"),
    ("DEEPSEEK_API_KEY", "deepseek"),
    ("OPENROUTER_API_KEY", "openrouter"),
    ("MOONSHOT_API_KEY", "moonshot"),
    ("ZHIPU_API_KEY", "zhipu"),
    ("SILICONFLOW_API_KEY", "siliconflow"),
    ("GROQ_API_KEY", "groq"),
    ("TOGETHER_API_KEY", "together"),
    ("MISTRAL_API_KEY", "mistral"),
    ("XAI_API_KEY", "xai"),
];

/// An entry of `providers`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    /// The protocol. After loading it is always set: from the file, else from the id.
    pub kind: Option<String>,
    /// The OpenAI-compatible service whose defaults apply; from the file, else from the id.
    pub preset: Option<String>,
    /// The key.
    pub api_key: Option<Secret>,
    /// Several keys, used in turn.
    pub api_keys: Vec<Secret>,
    /// Base URL without trailing slash; unset: the kind's or the preset's.
    pub base_url: Option<String>,
    /// How long a call that is not streamed may take; unset: `routing.timeout`.
    pub timeout: Option<Duration>,
    /// How long connecting may take; unset: `routing.connect_timeout`.
    pub connect_timeout: Option<Duration>,
    /// How long the first chunk may take; unset: `routing.first_chunk_timeout`.
    pub first_chunk_timeout: Option<Duration>,
    /// How long a stream may be silent; unset: `routing.stream_idle_timeout`.
    pub stream_idle_timeout: Option<Duration>,
    /// How long a whole stream may take; unset: `routing.stream_total_timeout`.
    pub stream_total_timeout: Option<Duration>,
    /// Most requests per second.
    pub max_rps: Option<u32>,
    /// Largest event of a stream in bytes; unset: 1 MiB.
    pub max_event: Option<u64>,
    /// Public model name → the name sent on.
    pub models: BTreeMap<String, String>,
    /// How many tokens of prompt a model takes, by the name that goes upstream.
    pub context_windows: BTreeMap<String, u64>,
    /// Headers added to every call.
    pub headers: BTreeMap<String, Secret>,
    /// Share of traffic among providers of equal priority.
    pub weight: u32,
    /// Proxy for calls to this provider; none is taken from the environment.
    pub proxy: Option<Secret>,
    /// Most calls at once.
    pub max_concurrent: Option<usize>,
    /// Options of the kind itself (e.g. the simulated provider's script), not checked here.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Why the provider is not used, e.g. because the variable of its key is not set. Not a key of
    /// the file.
    pub disabled: Option<String>,
    /// Whether it came through the admin API, so that its connections are vetted. Not a key of the file.
    pub vetted: bool,
}

impl ProviderConfig {
    /// Lists all keys, `api_key` first.
    pub fn keys(&self) -> impl Iterator<Item = &Secret> {
        self.api_key.iter().chain(&self.api_keys)
    }
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            kind: None,
            preset: None,
            api_key: None,
            api_keys: Vec::new(),
            base_url: None,
            timeout: None,
            connect_timeout: None,
            first_chunk_timeout: None,
            stream_idle_timeout: None,
            stream_total_timeout: None,
            max_rps: None,
            max_event: None,
            models: BTreeMap::new(),
            context_windows: BTreeMap::new(),
            headers: BTreeMap::new(),
            weight: 100,
            proxy: None,
            max_concurrent: None,
            options: serde_json::Map::new(),
            disabled: None,
            vetted: false,
        }
    }
}

impl Section for ProviderConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.text("kind", &mut self.kind);
        r.text("preset", &mut self.preset);
        self.read_keys(r);
        r.url("base_url", &["https", "http"], &mut self.base_url);
        r.duration("timeout", &mut self.timeout);
        r.duration("connect_timeout", &mut self.connect_timeout);
        r.duration("first_chunk_timeout", &mut self.first_chunk_timeout);
        r.duration("stream_idle_timeout", &mut self.stream_idle_timeout);
        r.duration("stream_total_timeout", &mut self.stream_total_timeout);
        r.integer("max_rps", 1..=1_000_000, &mut self.max_rps);
        r.size("max_event", 1 << 10..=16 << 20, &mut self.max_event);
        r.entries(
            "models",
            "the name that the provider knows",
            true,
            non_empty,
            &mut self.models,
        );
        r.entries(
            "context_windows",
            "a number of tokens from 256 to 100000000",
            true,
            context_window,
            &mut self.context_windows,
        );
        r.entries(
            "headers",
            "a header's value of visible characters",
            false,
            header,
            &mut self.headers,
        );
        r.integer("weight", 0..=10_000, &mut self.weight);
        r.secret_url("proxy", &["http"], &mut self.proxy);
        r.integer("max_concurrent", 1..=1_000_000, &mut self.max_concurrent);
        r.free_form(
            "options",
            "a mapping that the provider kind defines",
            &mut self.options,
        );
    }
}

impl ProviderConfig {
    /// Reads `api_key` and `api_keys`. A key whose variable is unset or empty is left out with a
    /// warning, and the provider is disabled when no key remains: the same file then serves on
    /// machines that have only some of the accounts.
    fn read_keys(&mut self, r: &mut Reader<'_, '_>) {
        let mut why = None;
        if let Some(entry) = r.declare("api_key", "a secret text, e.g. \"${OPENAI_API_KEY}\"") {
            self.api_key = read_key(r, &entry.node, "api_key", &mut why);
        }
        if let Some(entry) = r.declare("api_keys", "a list, each item a secret text") {
            match &entry.node.value {
                Value::List(items) => {
                    for (i, item) in items.iter().enumerate() {
                        let key = read_key(r, item, &format!("api_keys[{i}]"), &mut why);
                        self.api_keys.extend(key);
                    }
                }
                _ => {
                    let message = format!("is {}; accepted: a list of keys", entry.node.shape());
                    r.error_at(&entry.node, "api_keys", message);
                }
            }
        }
        if self.keys().next().is_none() {
            self.disabled = why;
        }
    }
}

fn read_key(
    r: &mut Reader<'_, '_>,
    node: &Node,
    key: &str,
    why: &mut Option<String>,
) -> Option<Secret> {
    match Reader::text_of(node) {
        Ok(Scalar {
            variable: Some(variable),
            text,
            unset,
            ..
        }) if unset.is_some() || text.is_empty() => {
            let state = if unset.is_some() { "not set" } else { "empty" };
            let reason = format!("the environment variable {variable} is {state}");
            r.warn_at(
                node,
                key,
                format!(
                    "{reason}; the key is left out, and the provider disabled if it has no other"
                ),
            );
            *why = Some(reason);
            None
        }
        Ok(scalar) if scalar.text.trim().is_empty() => {
            let message = "is empty; accepted: a key, or no such line if the provider needs none";
            r.error_at(node, key, message);
            None
        }
        Ok(scalar) => {
            let text = scalar.text.trim();
            if text.bytes().all(|b| (0x21..0x7f).contains(&b)) {
                return Some(Secret::new(text));
            }
            // It travels in a header: a newline in it would otherwise fail at the first call.
            let message = "the key has spaces, line breaks or non-ASCII characters inside";
            r.error_at(node, key, message);
            None
        }
        Err(reason) => {
            r.error_at(node, key, format!("{reason}; accepted: a secret text"));
            None
        }
    }
}

fn context_window(value: &str) -> Result<u64, String> {
    match value.parse() {
        Ok(tokens @ 256..=100_000_000) => Ok(tokens),
        Ok(_) => Err("is out of range".to_owned()),
        Err(_) => Err("is not a whole number".to_owned()),
    }
}

fn header(value: &str) -> Result<Secret, String> {
    http::HeaderValue::from_str(value)
        .map(|_| Secret::new(value))
        .map_err(|_| "has characters that no header may carry".to_owned())
}

/// Tells which kind and preset a provider id means by itself.
pub(super) fn default_kind(id: &str) -> Option<(&'static str, Option<&'static str>)> {
    match id {
        "openai" => Some(("openai", None)),
        "aliyun" | "dashscope" => Some(("dashscope", None)),
        "simulated" => Some(("simulated", None)),
        _ => KNOWN_PRESETS
            .iter()
            .find(|preset| **preset == id)
            .map(|preset| ("openai", Some(*preset))),
    }
}
