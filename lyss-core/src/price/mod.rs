//! What tokens cost: prices of models, and the cost of a call by them.
//!
//! Prices come from three places, the first that knows the model wins: the table `prices` (the admin API), the
//! configuration (`billing.prices`), and the table shipped with the crate. All arithmetic is in whole numbers of 1e-12 of a
//! currency.

mod book;
mod catalog;
mod configured;
mod cost;
mod entry;
mod exchange;
mod rate;

pub use book::PriceBook;
pub use catalog::Catalog;
pub use configured::configured;
pub use cost::{Buckets, NoCost, Price, Tier};
pub use entry::{PriceEntry, stored};
pub use exchange::Exchange;
pub use rate::{ACCEPTED as RATE_ACCEPTED, NoRate, Rate, Rates};

/// The `price_id` of what was billed without a price.
pub const UNPRICED: &str = "unpriced";
