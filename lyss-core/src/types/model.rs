//! A model that the gateway serves.

use serde::{Deserialize, Serialize};

/// One entry of `GET /models`: OpenAI's members plus the gateway's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The name to ask for.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When the model appeared, in Unix seconds; 0 where the provider does not say.
    pub created: i64,
    /// Who owns it, as the provider says, else the provider's id.
    pub owned_by: String,
    /// The configured provider that serves it first.
    pub provider: String,
    /// The context window in tokens, where known.
    pub max_tokens: Option<u64>,
    /// Price of a million input tokens, as a decimal string in `currency`, where known.
    pub input_price: Option<String>,
    /// Price of a million output tokens, as a decimal string in `currency`, where known.
    pub output_price: Option<String>,
    /// The currency of the prices (ISO 4217).
    pub currency: Option<String>,
}

impl Model {
    /// A model of which only name and provider are known.
    pub fn new(id: impl Into<String>, provider: impl Into<String>) -> Self {
        let provider = provider.into();
        Self {
            id: id.into(),
            object: "model".into(),
            created: 0,
            owned_by: provider.clone(),
            provider,
            max_tokens: None,
            input_price: None,
            output_price: None,
            currency: None,
        }
    }
}
