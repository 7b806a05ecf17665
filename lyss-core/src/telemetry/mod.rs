//! What operators see: metrics. (Log lines go through `tracing`; one line a request, written in `pipeline/finish.rs`.)

pub mod budgets;
pub mod callers;
pub mod metrics;
pub mod requests;
