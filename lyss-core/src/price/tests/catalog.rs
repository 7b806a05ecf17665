#![allow(clippy::unwrap_used)]
use super::*;
use crate::price::Rate;

#[test]
fn every_row_of_the_file_is_a_price() {
    let lists = read().unwrap();
    let mut rows = 0;
    for list in &lists {
        for entry in &list.prices {
            let price = list.price(entry).unwrap();
            assert_eq!(list.catalog.price(&entry.model).as_deref(), Some(&price));
            assert!(price.rates.input > Rate::FREE, "{}", price.id);
            assert!(
                entry.valid_from.is_none() && entry.provider.is_none(),
                "{}",
                price.id
            );
            // A mistake of a place would make these untrue.
            let rates = price.rates;
            assert!(
                rates.cached_input() <= rates.input && rates.cache_write() >= rates.input,
                "{}",
                price.id
            );
            let embedding = entry.model.contains("embedding");
            assert_eq!(rates.output == Rate::FREE, embedding, "{}", price.id);
            assert!(rates.reasoning() >= rates.output, "{}", price.id);
            for tier in &price.tiers {
                assert!(tier.rates.input > price.rates.input, "{}", price.id);
            }
            rows += 1;
        }
    }
    let held: usize = SHIPPED.values().map(HashMap::len).sum();
    assert_eq!((rows, held), (81, 81), "no model twice");
}

#[test]
fn the_list_follows_kind_preset_and_region() {
    for (kind, preset, base_url, catalog) in [
        ("openai", None, None, Some(Catalog::OpenAi)),
        (
            "openai",
            Some("openai"),
            Some("http://127.0.0.1:1/v1"),
            Some(Catalog::OpenAi),
        ),
        ("openai", Some("deepseek"), None, Some(Catalog::DeepSeek)),
        ("openai", Some("ollama"), None, None),
        ("openai", Some("openrouter"), None, None),
        ("dashscope", None, None, Some(Catalog::DashScopeChina)),
        (
            "dashscope",
            None,
            Some("https://dashscope.aliyuncs.com/api/v1"),
            Some(Catalog::DashScopeChina),
        ),
        (
            "dashscope",
            None,
            Some("https://dashscope-intl.aliyuncs.com/api/v1"),
            Some(Catalog::DashScope),
        ),
        (
            "openai",
            Some("dashscope_compatible"),
            Some("https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
            Some(Catalog::DashScope),
        ),
        (
            "openai",
            Some("dashscope_compatible"),
            None,
            Some(Catalog::DashScopeChina),
        ),
        ("anthropic", None, None, Some(Catalog::Anthropic)),
        ("gemini", None, None, Some(Catalog::Gemini)),
        ("simulated", None, None, Some(Catalog::Simulated)),
        ("own", None, None, None),
    ] {
        assert_eq!(
            Catalog::of(kind, preset, base_url),
            catalog,
            "{kind} {preset:?} {base_url:?}"
        );
    }
}
