//! Writes the intent before anything is dispatched: from here on even a killed process leaves a row. (What a call may
//! cost at most is reserved here once there are budgets.)

use super::finish::Record;
use crate::error::Result;

/// Writes the intent.
///
/// # Errors
/// `billing_spool_full`.
pub(crate) fn cover(record: &mut Record) -> Result<()> {
    record.begin()
}
