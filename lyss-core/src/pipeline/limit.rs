//! The limits of a caller: a place under each of them, or a refusal.

use super::{admit::Asked, finish::Record};
use crate::{
    admission::limit::{Asking, Limits, estimate},
    engine::Inner,
    error::{Error, ErrorKind, Result},
    types::{CallContext, Principal, log::Purpose},
};

/// Takes a place under every limit of the caller, and leaves word of what is left.
///
/// # Errors
/// `rate_limited`; `request_too_large` for a request that its limit of tokens can never allow; `overloaded` if there are
/// too many callers to count.
pub(super) async fn limit(
    inner: &Inner,
    context: &CallContext,
    principal: &Principal,
    asked: &Asked<'_>,
    record: &mut Record,
) -> Result<()> {
    let of_caller = Limits::of(principal, &inner.settings().config.limits);
    let Some((subject, limits)) = of_caller else {
        return Ok(());
    };
    let tokens = match limits.tpm {
        None => 0,
        Some(tpm) => {
            let estimate = estimate(asked.body, asked.purpose == Purpose::Chat);
            if estimate.asked > tpm {
                return Err(too_large(estimate.asked, tpm));
            }
            estimate.asked.saturating_add(estimate.unlimited).min(tpm)
        }
    };
    let asking = Asking {
        subject,
        limits,
        id: context.request_id,
        tokens,
    };
    match inner.callers.admit(asking).await {
        Ok((admitted, status)) => {
            context.report.set_rate(status);
            record.admitted(admitted);
            Ok(())
        }
        Err(refused) => {
            if let Some(limit) = refused.limit {
                context.report.set_rate(refused.status);
                inner.metrics.callers.refused(limit.name());
            }
            Err(refused.error)
        }
    }
}

fn too_large(tokens: u64, tpm: u64) -> Error {
    Error::new(
        ErrorKind::RequestTooLarge,
        format!(
            "the request may take about {tokens} tokens, and the caller's limit is {tpm} in 60 s (`tpm`): send less or lower `max_tokens`"
        ),
    )
}
