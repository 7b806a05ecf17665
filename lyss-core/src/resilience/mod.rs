//! What stands between the dispatcher and a provider: limits, health, timeouts and the pause between attempts.
//!
//! Order around one attempt, outermost first: health (is the account worth a call) → limit (`max_rps`) → timeout
//! (unary, or first chunk, idle and total of a stream) → provider.

pub mod health;
pub mod limit;
pub mod retry;
pub mod stream_buffer;
pub mod timeout;
