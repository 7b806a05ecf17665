//! The usage of a call: as the provider reports it, and then learnt from; else as it is counted here.

use std::sync::Arc;

use super::bounds;
use crate::{
    context::tokens::{Counter, TOOL_CALL, Tokenizer},
    engine::Inner,
    routing::Target,
    types::{
        ChatRequest, EmbeddingRequest, RawObject, Usage, UsageSource,
        delivered::{Delivered, Part},
    },
};

/// The largest request that is learnt from, in bytes: learning happens on the way.
const LEARNT_MOST: usize = 64 * 1024;

/// The counter of a target's model.
pub(super) fn counter(inner: &Inner, target: &Target) -> Counter {
    inner.corrections.counter(&target.upstream_model)
}

/// The usage of a complete chat answer.
pub(super) async fn of_answer(
    inner: &Arc<Inner>,
    target: &Target,
    request: &ChatRequest,
    reported: Option<Usage>,
    answer: &RawObject,
) -> (Usage, UsageSource) {
    if let Some(usage) = reported {
        learn(inner, target, request, usage);
        if inner.metrics.requests.compares() {
            compare(inner, target, request, Some(answer), usage);
        }
        return (usage, UsageSource::Reported);
    }
    let (size, output) = output_of(answer);
    let usage = count(counter(inner, target), request.clone(), size, output).await;
    (usage, UsageSource::Counted)
}

/// The bytes of an answer's messages, and what counts their tokens.
fn output_of(answer: &RawObject) -> (usize, impl FnOnce(&Counter) -> u64 + Send + use<>) {
    let messages: Vec<_> = answer
        .get("choices")
        .map(|choices| choices.elements())
        .unwrap_or_default()
        .iter()
        .filter_map(|choice| choice.object().ok())
        .filter_map(|choice| choice.get("message").map(|message| message.bytes()))
        .collect();
    let size = messages.iter().map(|message| message.len()).sum();
    let output = move |counter: &Counter| {
        let tokens = messages.iter().map(|message| counter.answer(message));
        tokens.map(u64::from).sum()
    };
    (size, output)
}

/// Takes in the report of a stream that has ended.
pub(super) fn reported_at_end(
    inner: &Arc<Inner>,
    target: &Target,
    request: &ChatRequest,
    usage: Usage,
) {
    learn(inner, target, request, usage);
    if inner.metrics.requests.compares() {
        compare(inner, target, request, None, usage);
    }
}

/// Compares a report with the gateway's own count, in the background: a provider that charges for more than there is
/// shows in a metric. Reasoning and media cannot be counted here.
fn compare(
    inner: &Arc<Inner>,
    target: &Target,
    request: &ChatRequest,
    answer: Option<&RawObject>,
    reported: Usage,
) {
    let (engine, counter) = (Arc::clone(inner), counter(inner, target));
    let (provider, request) = (Arc::clone(&target.account.id), request.clone());
    let (size, output) = answer.map(output_of).unzip();
    inner.in_background(async move {
        let model = request.model().to_owned();
        if bounds::media_in(&request) > 0 {
            return;
        }
        let output = |counter: &Counter| output.map_or(0, |count| count(counter));
        let counted = count(counter, request, size.unwrap_or(0), output).await;
        let visible = reported
            .output_tokens
            .saturating_sub(reported.reasoning_tokens);
        for (kind, counted, reported) in [
            ("input", counted.input_tokens, reported.input_tokens),
            ("output", counted.output_tokens, visible),
        ] {
            let metrics = &engine.metrics.requests;
            metrics.drifted(&provider, &model, kind, counted, reported);
        }
    });
}

/// The usage of a stream that has delivered this much, when nothing is reported.
pub(super) async fn of_delivered(
    counter: Counter,
    request: ChatRequest,
    delivered: Arc<Delivered>,
) -> Usage {
    let output = {
        let delivered = Arc::clone(&delivered);
        move |counter: &Counter| {
            delivered.sum(|slot, text| {
                let call = match slot.part {
                    Part::CallName(_) => TOOL_CALL,
                    _ => 0,
                };
                u64::from(call) + u64::from(counter.text(text))
            })
        }
    };
    count(counter, request, delivered.size(), output).await
}

/// The usage of an embeddings call.
pub(super) async fn of_embeddings(
    inner: &Inner,
    target: &Target,
    request: &EmbeddingRequest,
    reported: Option<Usage>,
) -> (Usage, UsageSource) {
    if let Some(usage) = reported {
        return (usage, UsageSource::Reported);
    }
    let size = request.to_segments().len();
    let request = request.clone();
    let input_tokens = counter(inner, target)
        .run(size, move |counter| counter.inputs(&request))
        .await;
    let usage = Usage {
        input_tokens,
        ..Usage::default()
    };
    (usage, UsageSource::Counted)
}

async fn count(
    counter: Counter,
    request: ChatRequest,
    output_size: usize,
    output: impl FnOnce(&Counter) -> u64 + Send + 'static,
) -> Usage {
    let size = request.body().to_segments().len() + output_size;
    let count = move |counter: &Counter| Usage {
        input_tokens: counter.request(&request).input_tokens,
        output_tokens: output(counter),
        ..Usage::default()
    };
    counter.run(size, count).await
}

/// Learns from a report how far the estimate for the model is off: from some requests only, and from none with images
/// and the like, whose price has nothing to do with the vocabulary.
fn learn(inner: &Inner, target: &Target, request: &ChatRequest, reported: Usage) {
    let model = &*target.upstream_model;
    let counter = inner.corrections.counter(model);
    if counter.tokenizer() != Tokenizer::Estimate || !inner.corrections.wants(model) {
        return;
    }
    if bounds::media_in(request) == 0 && request.body().to_segments().len() <= LEARNT_MOST {
        let counted = counter.request(request);
        inner
            .corrections
            .learn(model, &counted, reported.input_tokens);
    }
}
