//! The request log: every request makes exactly one row of `request_logs`, whatever dies on the way.
//!
//! ```text
//! request ── begin ──▶ spool (intent)  ┐
//!         ── settle ─▶ spool (settle)  ┴▶ drain ─▶ sink ─▶ request_logs ─▶ request_log (reads)
//! ```
//!
//! A request never waits for the database. Both records go to a local file, synchronously, and each carries a complete
//! row: the intent's is the row of a request whose process died (`aborted`), the settle's replaces it. So recovery has
//! no case of its own: of each request the settle is written if there is one, else the intent.

#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    // Without a driver no `Database` can be made, and what needs one is never reached.
    allow(unreachable_code, unused_variables, dead_code)
)]

mod adjustment;
mod columns;
mod drain;
mod durability;
mod ledger;
mod reader;
mod record;
mod request_log;
mod rerate;
mod sink;
mod upkeep;
mod usage;

#[cfg(all(test, unix, feature = "postgres", feature = "sqlite"))]
mod tests;

pub use ledger::{Entry, Ledger, LedgerOptions, LedgerStats};
pub use rerate::{RerateQuery, Rerated};
