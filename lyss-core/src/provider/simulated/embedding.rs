//! Unit vectors derived from a hash of the input: the same input, the same vector.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

use super::answer::tokens;
use crate::{
    error::{Error, Result},
    provider::{Completion, vectors},
    types::{EmbeddingRequest, Usage, embedding::Input},
};

const DIMENSIONS: u64 = 256;
const MAX_DIMENSIONS: u64 = 4096;

pub(super) fn embed(request: &EmbeddingRequest) -> Result<Completion> {
    let dimensions = match request.body().get_some("dimensions") {
        None => DIMENSIONS,
        Some(number) => number
            .as_u64()
            .filter(|number| (1..=MAX_DIMENSIONS).contains(number))
            .ok_or_else(|| {
                let message = format!("`dimensions` must be an integer from 1 to {MAX_DIMENSIONS}");
                Error::invalid("dimensions", message)
            })?,
    };
    let (vectors, count): (Vec<Vec<f32>>, usize) = match request.input()? {
        Input::Texts(texts) => (
            texts
                .iter()
                .map(|text| vector(text.as_bytes(), dimensions))
                .collect(),
            texts.iter().map(|text| tokens(text).count()).sum(),
        ),
        Input::Tokens(lists) => {
            let bytes = |list: &Vec<u32>| -> Vec<u8> {
                list.iter().flat_map(|token| token.to_le_bytes()).collect()
            };
            (
                lists
                    .iter()
                    .map(|list| vector(&bytes(list), dimensions))
                    .collect(),
                lists.iter().map(Vec::len).sum(),
            )
        }
    };
    let usage = Usage {
        input_tokens: count as u64,
        ..Usage::default()
    };
    let written = vectors.iter().map(|vector| {
        Cow::Owned(if request.base64() {
            let bytes: Vec<u8> = vector
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect();
            format!("\"{}\"", BASE64_STANDARD.encode(bytes))
        } else {
            serde_json::to_string(vector).unwrap_or_default()
        })
    });
    Ok(Completion {
        body: vectors::write_list(request.model(), written, Some(usage)),
        usage: Some(usage),
        upstream_request_id: None,
    })
}

fn vector(input: &[u8], dimensions: u64) -> Vec<f32> {
    let seed = Sha256::digest(input);
    let mut numbers = Vec::with_capacity(dimensions as usize);
    for block in 0..dimensions.div_ceil(8) {
        let hash = Sha256::new()
            .chain_update(seed)
            .chain_update(block.to_le_bytes())
            .finalize();
        for word in hash.chunks_exact(4) {
            let word = word
                .iter()
                .fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
            numbers.push(f64::from(word) / f64::from(u32::MAX) * 2.0 - 1.0);
        }
    }
    numbers.truncate(dimensions as usize);
    let length = numbers
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt();
    let length = if length > 0.0 { length } else { 1.0 };
    numbers
        .into_iter()
        .map(|number| (number / length) as f32)
        .collect()
}
