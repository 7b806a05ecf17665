//! The prices that are shipped with the crate: `shipped.json`, which names its sources and its date.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;

use super::{Price, PriceEntry, Rates};
use crate::Result;

/// Whose list prices hold for a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Catalog {
    /// OpenAI.
    OpenAi,
    /// DashScope outside of mainland China, in USD.
    DashScope,
    /// DashScope in the region China (Beijing), in CNY.
    #[serde(rename = "dashscope_china")]
    DashScopeChina,
    /// DeepSeek.
    DeepSeek,
    /// Anthropic.
    Anthropic,
    /// Gemini.
    Gemini,
    /// The built-in provider `simulated`: all of its models are free.
    Simulated,
}

/// The host of DashScope's region China (Beijing).
const BEIJING: &str = "dashscope.aliyuncs.com";

impl Catalog {
    /// The list of a provider, by its kind, preset and base URL; `None` for services that ship without prices.
    pub fn of(kind: &str, preset: Option<&str>, base_url: Option<&str>) -> Option<Self> {
        match (kind, preset) {
            ("dashscope", _) | ("openai", Some("dashscope_compatible")) => {
                // Without a base URL either protocol is spoken with Beijing.
                let beijing = base_url.is_none_or(|url| {
                    url.parse::<http::Uri>()
                        .is_ok_and(|uri| uri.host() == Some(BEIJING))
                });
                Some(if beijing {
                    Self::DashScopeChina
                } else {
                    Self::DashScope
                })
            }
            ("openai", None | Some("openai")) => Some(Self::OpenAi),
            ("openai", Some("deepseek")) => Some(Self::DeepSeek),
            ("anthropic", _) => Some(Self::Anthropic),
            ("gemini", _) => Some(Self::Gemini),
            ("simulated", _) => Some(Self::Simulated),
            _ => None,
        }
    }

    /// Its name in `shipped.json` and in the ids of its prices.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::DashScope => "dashscope",
            Self::DashScopeChina => "dashscope_china",
            Self::DeepSeek => "deepseek",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Simulated => "simulated",
        }
    }

    /// The list price of a model.
    pub(super) fn price(self, model: &str) -> Option<Arc<Price>> {
        match self {
            Self::Simulated => Some(Arc::clone(&FREE)),
            catalog => SHIPPED.get(&catalog)?.get(model).cloned(),
        }
    }
}

static FREE: LazyLock<Arc<Price>> = LazyLock::new(|| {
    Arc::new(Price {
        id: "shipped:simulated".into(),
        model: "*".into(),
        provider: None,
        currency: "USD".into(),
        valid_from_ms: 0,
        rates: Rates::default(),
        tiers: Vec::new(),
        max_output_tokens: None,
    })
});

/// By catalog and model.
type Shipped = HashMap<Catalog, HashMap<Arc<str>, Arc<Price>>>;

// The file is a part of the program: that it can be read whole is a test, not a case at run time.
static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    let mut shipped = Shipped::new();
    for list in read().unwrap_or_default() {
        let prices = list
            .prices
            .iter()
            .filter_map(|entry| list.price(entry).ok());
        shipped
            .entry(list.catalog)
            .or_default()
            .extend(prices.map(|price| (Arc::clone(&price.model), Arc::new(price))));
    }
    shipped
});

/// A list of `shipped.json`.
#[derive(Deserialize)]
struct List {
    catalog: Catalog,
    prices: Vec<PriceEntry>,
}

impl List {
    fn price(&self, entry: &PriceEntry) -> Result<Price> {
        entry.price(&format!(
            "shipped:{}/{}",
            self.catalog.as_str(),
            entry.model
        ))
    }
}

fn read() -> serde_json::Result<Vec<List>> {
    #[derive(Deserialize)]
    struct File {
        lists: Vec<List>,
    }
    serde_json::from_str::<File>(include_str!("shipped.json")).map(|file| file.lists)
}

#[cfg(test)]
#[path = "tests/catalog.rs"]
mod tests;
