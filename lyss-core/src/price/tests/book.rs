#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    config::{BillingConfig, PriceConfig},
    price::{PriceEntry, Rate, Rates, configured},
};

fn stored(id: i64, provider: Option<&str>, model: &str, valid_from: Option<&str>) -> Price {
    let entry = PriceEntry {
        model: model.into(),
        provider: provider.map(str::to_owned),
        currency: "EUR".into(),
        valid_from: valid_from.map(str::to_owned),
        ..PriceEntry::default()
    };
    entry.price(&format!("table:{id}")).unwrap()
}

fn configuration(keys: &[&str]) -> BillingConfig {
    let entry = PriceConfig {
        rates: Rates::new(Rate::per_token(1), Rate::per_token(2)),
        ..PriceConfig::default()
    };
    BillingConfig {
        prices: keys
            .iter()
            .map(|key| ((*key).to_owned(), vec![entry.clone()]))
            .collect(),
        ..BillingConfig::default()
    }
}

/// The source of the price that is found.
fn found(book: &PriceBook, provider: &str, model: &str, at_ms: i64) -> Option<String> {
    let price = book.find(provider, Some(Catalog::OpenAi), model, at_ms)?;
    price
        .id
        .split_once('@')
        .map(|(source, _)| source.to_owned())
}

#[test]
fn the_most_particular_price_is_found() {
    let book = PriceBook::default()
        .with_stored([
            stored(1, Some("a"), "gpt-4o", None),
            stored(2, None, "gpt-4o", None),
        ])
        .with_configured(
            configured(&configuration(&["b/gpt-4o", "gpt-4o", "b/x", "x", "org/x"])).unwrap(),
        );
    for (provider, model, source) in [
        ("a", "gpt-4o", Some("table:1")),
        ("b", "gpt-4o", Some("table:2")),
        ("a", "gpt-4o-2024-08-06", Some("table:1")),
        ("a", "x", Some("config:x")),
        ("b", "x", Some("config:b/x")),
        ("a", "org/x", Some("config:org/x")),
        ("org", "x", Some("config:org/x")),
        ("a", "gpt-4o-mini", Some("shipped:openai/gpt-4o-mini")),
        (
            "a",
            "gpt-4o-mini-2024-07-18",
            Some("shipped:openai/gpt-4o-mini"),
        ),
        ("a", "unheard-of", None),
    ] {
        assert_eq!(
            found(&book, provider, model, 0).as_deref(),
            source,
            "{provider} {model}"
        );
    }
    let without_table = book.with_stored([]);
    assert_eq!(
        found(&without_table, "a", "gpt-4o", 0).unwrap(),
        "config:gpt-4o"
    );
    let shipped = without_table.with_configured([]);
    assert_eq!(
        found(&shipped, "a", "gpt-4o", 0).unwrap(),
        "shipped:openai/gpt-4o"
    );
}

#[test]
fn the_price_of_the_time_is_found() {
    let book = PriceBook::default().with_stored([
        stored(1, None, "m", Some("2026-01-01")),
        stored(2, None, "m", Some("2026-03-01T12:00:00+02:00")),
        stored(3, None, "gpt-4o", Some("2026-01-01")),
    ]);
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    for (model, time, source) in [
        ("m", "2025-12-31T23:59:59.999Z", None),
        ("m", "2026-01-01T00:00:00Z", Some("table:1")),
        ("m", "2026-03-01T09:59:59.999Z", Some("table:1")),
        ("m", "2026-03-01T10:00:00Z", Some("table:2")),
        (
            "gpt-4o",
            "2025-12-31T00:00:00Z",
            Some("shipped:openai/gpt-4o"),
        ),
        ("gpt-4o", "2026-12-31T00:00:00Z", Some("table:3")),
    ] {
        assert_eq!(
            found(&book, "a", model, at(time)).as_deref(),
            source,
            "{model} {time}"
        );
    }
}

#[test]
fn only_a_date_is_cut_off() {
    for (model, name) in [
        ("gpt-4o-2024-08-06", Some("gpt-4o")),
        ("claude-haiku-4-5-20251001", Some("claude-haiku-4-5")),
        ("qwen-plus-2025-07-28", Some("qwen-plus")),
        ("gpt-4o-2024-13-06", None),
        ("gpt-4o-2024-08-6", None),
        ("gpt-4o-24-08-2024", None),
        ("gpt-4o-99999999", None),
        ("gpt-4o-mini", None),
        ("gpt-4-0613", None),
        ("gpt-4o_2024-08-06", None),
        ("-2024-08-06", None),
        ("2024-08-06", None),
        ("模型-2024-08-06", Some("模型")),
        ("模型模型", None),
        ("", None),
    ] {
        assert_eq!(undated(model), name, "{model}");
    }
}

#[test]
fn a_changed_price_has_another_id() {
    let entry = PriceEntry {
        model: "m".into(),
        currency: "USD".into(),
        ..PriceEntry::default()
    };
    let id = |entry: &PriceEntry| entry.price("table:1").unwrap().id;
    let dearer = PriceEntry {
        reasoning: Some(Rate::per_token(1)),
        ..entry.clone()
    };
    let moved = PriceEntry {
        id: Some(7),
        ..entry.clone()
    };
    assert_ne!(id(&entry), id(&dearer));
    assert_eq!(id(&entry), id(&moved));
}
