//! Covers a call before anything is dispatched: its intent is written, so that from here on even a killed process leaves
//! a row.

use memchr::memmem;

use super::finish::Record;
use crate::{engine::Inner, error::Result, routing::Route, types::Segments};

/// Bytes of a request for which it has a token at least. Natural language has one for some four, JSON around it
/// included; eight leaves room for what a tokenizer knows as long words and repetitions.
const BYTES_PER_TOKEN_MOST: u64 = 8;

/// Writes the intent. `body`: the request as it would go upstream.
///
/// # Errors
/// `billing_spool_full`.
pub(crate) fn cover(
    inner: &Inner,
    record: &mut Record,
    route: &Route,
    body: &Segments,
) -> Result<()> {
    let likely = route.tiers.first().and_then(|tier| tier.targets.first());
    let at_ms = record.request_id().unix_ms();
    let price = likely.and_then(|target| target.price(&inner.prices.load(), at_ms));
    record.begin(input_at_least(body), price.as_deref())
}

/// Tokens that the prompt of a request has at least. One with embedded media says nothing by its length.
fn input_at_least(body: &Segments) -> u64 {
    let media = |segment| memmem::find(segment, b";base64,").is_some();
    match body.0.iter().any(|segment| media(segment)) {
        true => 1,
        false => (body.len() as u64 / BYTES_PER_TOKEN_MOST).max(1),
    }
}
