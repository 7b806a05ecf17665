//! What of a conversation a model is sent: how much it is, and what stays.

// How many tokens something is.
pub mod tokens;
