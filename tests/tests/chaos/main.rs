//! The chaos suite: money under kills, outages and callers who leave, audited against what the providers say they did.
//!
//! The ordinary suite runs it short. `make chaos` sets the sizes: `LYSS_CHAOS_REQUESTS`, `LYSS_CHAOS_KILLS`,
//! `LYSS_CHAOS_OUTAGES`, and `LYSS_CHAOS_SEED` for another order of events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod calls;
mod ledger;
mod thousand_callers;

/// What the environment says, or what is usual.
fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

fn seed() -> u64 {
    size("LYSS_CHAOS_SEED", 20_261_126) as u64
}
