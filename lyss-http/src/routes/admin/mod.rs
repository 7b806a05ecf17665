//! `/admin`: what only admin keys may do, one file a resource.

pub(super) mod budgets;
pub(super) mod keys;
pub(super) mod prices;
pub(super) mod providers;
pub(super) mod rules;
