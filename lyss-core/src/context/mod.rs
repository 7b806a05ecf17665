//! What of a conversation a model is sent: how much it is, what stays, and what stands for the rest.

// How many tokens something is.
pub mod tokens;

// Where blocks of user text begin and end.
pub mod delimit;

// What belongs together.
pub mod groups;

// How much models take.
pub mod model_windows;

// What a summary is made of.
pub mod summarize;

// What stays.
pub mod window;
