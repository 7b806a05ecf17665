//! Files that survive the process: what has been acknowledged and must still go somewhere lies here until it has.
//!
//! ```text
//! directory  one locked directory a process; segments that only grow, or go as a whole; those of dead processes are adopted
//! frame      a record in a segment: length, checksum, body
//! outbox     topics on top of both: records handed to a consumer in order, at least once
//! ```
//!
//! The request log (`billing/`) uses the first two in a way of its own: its records are intents and settles that belong
//! together. Everything else that is handed on after an answer is a topic of the outbox.

pub(crate) mod directory;
pub(crate) mod frame;
mod outbox;

pub(crate) use directory::{
    AppendError, Orphan, Segments, Spool, open_private, orphans, segment_path,
};
pub(crate) use outbox::{Consumer, Failure, Outbox, OutboxStats, Topics};
