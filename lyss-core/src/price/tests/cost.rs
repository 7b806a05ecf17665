#![allow(clippy::unwrap_used)]
use num_bigint::BigInt;
use proptest::prelude::*;

use super::*;
use crate::{
    price::{Catalog, PriceBook, Rate},
    provider::dashscope::read_usage,
    types::RawObject,
};

fn openai(json: &str) -> Usage {
    let object = RawObject::parse(format!(r#"{{"usage":{json}}}"#).into()).unwrap();
    Usage::from_openai(object.get("usage").unwrap()).unwrap()
}

fn dashscope(json: &str) -> Usage {
    read_usage(&serde_json::from_str::<Box<serde_json::value::RawValue>>(json).unwrap()).unwrap()
}

/// Usage as the provider writes it, the parts that it stands for, and what they cost by the shipped prices: the amounts
/// were computed by hand.
#[test]
fn what_providers_report_costs_what_they_charge() {
    let anthropic = |input, written, read, output| Usage {
        input_tokens: input + written + read,
        output_tokens: output,
        cached_tokens: read,
        cache_write_tokens: written,
        reasoning_tokens: 0,
    };
    let gemini = |prompt, cached, candidates, thoughts| Usage {
        input_tokens: prompt,
        output_tokens: candidates + thoughts,
        cached_tokens: cached,
        cache_write_tokens: 0,
        reasoning_tokens: thoughts,
    };
    let cases: [(Catalog, &str, Usage, [u64; 5], &str); 15] = [
        (
            Catalog::OpenAi,
            "gpt-4o-2024-11-20",
            openai(
                r#"{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}"#,
            ),
            [7, 0, 0, 2, 0],
            "0.0000375", // 7 × 2.5 + 2 × 10
        ),
        (
            Catalog::OpenAi,
            "gpt-4o-mini",
            openai(
                r#"{"prompt_tokens":2006,"completion_tokens":300,"prompt_tokens_details":{"cached_tokens":1920}}"#,
            ),
            [86, 1920, 0, 300, 0],
            "0.0003369", // 86 × 0.15 + 1920 × 0.075 + 300 × 0.6
        ),
        (
            Catalog::OpenAi,
            "gpt-6-sol",
            openai(
                r#"{"prompt_tokens":272000,"completion_tokens":100,"prompt_tokens_details":{"cached_tokens":1000,"cache_write_tokens":2000},"completion_tokens_details":{"reasoning_tokens":60}}"#,
            ),
            [269_000, 1000, 2000, 40, 60],
            "0.5442", // 269000 × 2 + 1000 × 0.2 + 2000 × 2.5 + 100 × 10
        ),
        (
            Catalog::OpenAi,
            "gpt-6-sol",
            openai(
                r#"{"prompt_tokens":272001,"completion_tokens":100,"prompt_tokens_details":{"cached_tokens":1001}}"#,
            ),
            [271_000, 1001, 0, 100, 0],
            "1.0859004", // the whole of it at 4, 0.4 and 15
        ),
        (
            Catalog::OpenAi,
            "text-embedding-3-small",
            openai(r#"{"prompt_tokens":1,"total_tokens":1}"#),
            [1, 0, 0, 0, 0],
            "0.00000002",
        ),
        (
            Catalog::DeepSeek,
            "deepseek-chat",
            openai(
                r#"{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#,
            ),
            [36, 64, 0, 10, 0],
            "0.000016072", // 36 × 0.28 + 64 × 0.028 + 10 × 0.42
        ),
        (
            Catalog::DashScope,
            "qwen-turbo",
            dashscope(
                r#"{"total_tokens":10,"input_tokens":7,"output_tokens":3,"output_tokens_details":{"reasoning_tokens":2,"text_tokens":1}}"#,
            ),
            [7, 0, 0, 1, 2],
            "0.00000155", // 7 × 0.05 + 1 × 0.2 + 2 × 0.5
        ),
        (
            Catalog::DashScope,
            "qwen3-coder-plus",
            dashscope(
                r#"{"input_tokens":32001,"output_tokens":10,"total_tokens":32011,"prompt_tokens_details":{"cached_tokens":32000}}"#,
            ),
            [1, 32_000, 0, 10, 0],
            "0.0058518", // 1 × 1.8 + 32000 × 0.18 + 10 × 9
        ),
        (
            Catalog::DashScope,
            "qwen3.8-flash",
            openai(
                r#"{"prompt_tokens":3000,"completion_tokens":10,"total_tokens":3010,"completion_tokens_details":null,"prompt_tokens_details":{"audio_tokens":null,"cached_tokens":1000,"cache_creation_input_tokens":1500}}"#,
            ),
            [500, 1000, 1500, 10, 0],
            "0.0003957", // 500 × 0.15 + 1000 × 0.016 + 1500 × 0.2 + 10 × 0.47
        ),
        (
            Catalog::DashScopeChina,
            "qwen-plus",
            dashscope(
                r#"{"input_tokens":7,"output_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0}}"#,
            ),
            [7, 0, 0, 2, 0],
            "0.0000096", // 7 × 0.8 + 2 × 2, in CNY
        ),
        (
            Catalog::DashScopeChina,
            "text-embedding-v4",
            dashscope(r#"{"total_tokens":2}"#),
            [2, 0, 0, 0, 0],
            "0.000001",
        ),
        (
            Catalog::Anthropic,
            "claude-sonnet-4-5-20250929",
            anthropic(31, 1000, 2000, 58),
            [31, 2000, 1000, 58, 0],
            "0.005313", // 31 × 3 + 1000 × 3.75 + 2000 × 0.3 + 58 × 15
        ),
        (
            Catalog::Gemini,
            "gemini-2.5-pro",
            gemini(8, 0, 2, 23),
            [8, 0, 0, 2, 23],
            "0.00026", // 8 × 1.25 + 25 × 10: thoughts cost as output
        ),
        (
            Catalog::Gemini,
            "gemini-2.5-pro",
            gemini(200_001, 200_000, 1, 1),
            [1, 200_000, 0, 1, 1],
            "0.0500325", // 1 × 2.5 + 200000 × 0.25 + 2 × 15
        ),
        (
            Catalog::Simulated,
            "echo",
            openai(r#"{"prompt_tokens":5000000,"completion_tokens":5000000}"#),
            [5_000_000, 0, 0, 5_000_000, 0],
            "0",
        ),
    ];
    for (catalog, model, usage, buckets, cost) in cases {
        let parts = Buckets::of(&usage).unwrap();
        let [input, cached_input, cache_write, output, reasoning] = buckets;
        let expected = Buckets {
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
        };
        assert_eq!(parts, expected, "{model}");
        let price = PriceBook::default()
            .find("p", Some(catalog), model, 0)
            .unwrap();
        assert_eq!(price.cost(&usage).unwrap().to_string(), cost, "{model}");
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let mut price = price([rates([1, 1, 1, 1, 1])], [0]);
    let usage = |input, cached, written| Usage {
        input_tokens: input,
        cached_tokens: cached,
        cache_write_tokens: written,
        ..Usage::default()
    };
    assert_eq!(price.cost(&usage(1, 1, 1)), Err(NoCost::Inconsistent));
    assert_eq!(
        price.cost(&usage(u64::MAX, u64::MAX, u64::MAX)),
        Err(NoCost::Inconsistent)
    );
    let reasoning = Usage {
        reasoning_tokens: 1,
        ..Usage::default()
    };
    assert_eq!(price.cost(&reasoning), Err(NoCost::Inconsistent));
    price.rates = rates([u64::MAX; 5]);
    assert_eq!(
        price.cost(&usage(u64::MAX, 0, 0)),
        Err(NoCost::Overflow),
        "{}",
        u64::MAX
    );
    assert_eq!(price.most(u64::MAX, u64::MAX), None);
    assert_eq!(price.output_tokens_for(Pico(i128::MAX), u64::MAX), None);
}

fn rates([input, cached, written, output, reasoning]: [u64; 5]) -> Rates {
    Rates {
        input: Rate::per_token(input),
        cached_input: Some(Rate::per_token(cached)),
        cache_write: Some(Rate::per_token(written)),
        output: Rate::per_token(output),
        reasoning: Some(Rate::per_token(reasoning)),
    }
}

/// A price of these rates, each above its bound.
fn price<const TIERS: usize>(rates: [Rates; TIERS], above: [u64; TIERS]) -> Price {
    let mut tiers = above
        .into_iter()
        .zip(rates)
        .map(|(above_input_tokens, rates)| Tier {
            above_input_tokens,
            rates,
        });
    Price {
        id: "test".into(),
        model: "m".into(),
        provider: None,
        currency: "USD".into(),
        valid_from_ms: 0,
        rates: tiers.next().unwrap().rates,
        tiers: tiers.collect(),
        max_output_tokens: None,
    }
}

/// A price per million tokens as it is written: up to nine digits, up to six decimals.
fn written_rate() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,3}",
        "[0-9]{1,3}\\.[0-9]{1,6}",
        "[1-9][0-9]{8}\\.[0-9]{6}",
    ]
}

/// The cost by another arithmetic: decimals as text, whole numbers without a bound.
fn oracle(per_million: &[String], tokens: &[u64]) -> String {
    let scaled = |text: &String| {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        format!("{whole}{decimals:0<6}").parse::<BigInt>().unwrap()
    };
    // 1e-6 of a currency per 1e6 tokens: the sum is in 1e-12.
    let sum: BigInt = per_million
        .iter()
        .zip(tokens)
        .map(|(rate, tokens)| scaled(rate) * BigInt::from(*tokens))
        .sum();
    let digits = format!("{sum:0>13}");
    let (whole, decimals) = digits.split_at(digits.len() - 12);
    format!("{whole}.{decimals}")
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

fn usage_within(input: u64, output: u64) -> impl Strategy<Value = Usage> {
    (0..=input, 0..=output).prop_flat_map(|(input, output)| {
        (0..=input, 0..=output).prop_flat_map(move |(cached, reasoning)| {
            (0..=input - cached).prop_map(move |written| Usage {
                input_tokens: input,
                output_tokens: output,
                cached_tokens: cached,
                cache_write_tokens: written,
                reasoning_tokens: reasoning,
            })
        })
    })
}

fn any_price() -> impl Strategy<Value = Price> {
    let rates = || prop::array::uniform5(0_u64..20_000_000).prop_map(rates);
    (
        prop::array::uniform3(rates()),
        1_u64..50_000,
        50_000_u64..90_000,
    )
        .prop_map(|(rates, first, second)| price(rates, [0, first, second]))
}

proptest! {
    #[test]
    fn costs_are_exact(
        written in prop::collection::vec(written_rate(), 5),
        usage in usage_within(10_000_000, 10_000_000),
    ) {
        let rate = |i: usize| written[i].parse::<Rate>().unwrap();
        let price = price(
            [Rates {
                input: rate(0),
                cached_input: Some(rate(1)),
                cache_write: Some(rate(2)),
                output: rate(3),
                reasoning: Some(rate(4)),
            }],
            [0],
        );
        let tokens = [
            usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.output_tokens - usage.reasoning_tokens,
            usage.reasoning_tokens,
        ];
        prop_assert_eq!(price.cost(&usage).unwrap().to_string(), oracle(&written, &tokens));
    }

    /// Cheaper tiers, dear caches, dear reasoning: nothing within the bounds costs more than was reserved.
    #[test]
    fn nothing_costs_more_than_the_most(
        price in any_price(),
        usage in usage_within(100_000, 20_000),
        more in (0_u64..1000, 0_u64..1000),
    ) {
        let most = price.most(usage.input_tokens + more.0, usage.output_tokens + more.1).unwrap();
        prop_assert!(price.cost(&usage).unwrap() <= most);
        prop_assert!(price.most(usage.input_tokens, usage.output_tokens).unwrap() <= most);
    }

    #[test]
    fn an_amount_affords_as_many_tokens_as_it_says(
        price in any_price(),
        input in 0_u64..100_000,
        amount in 0_i64..4_000_000_000_000,
    ) {
        let amount = Pico(amount.into());
        match price.output_tokens_for(amount, input) {
            None => prop_assert!(price.most(input, 0).unwrap() > amount),
            Some(u64::MAX) => prop_assert!(price.most(input, 1 << 40).unwrap() <= amount),
            Some(tokens) => {
                prop_assert!(price.most(input, tokens).unwrap() <= amount);
                prop_assert!(price.most(input, tokens + 1).unwrap() > amount);
            }
        }
    }
}
