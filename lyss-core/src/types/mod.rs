//! What travels through the engine: data only, no IO.

pub mod call;
pub mod chat;
pub mod delivered;
pub mod disconnect;
pub mod embedding;
pub mod log;
pub mod model;
pub mod money;
pub mod rate;
pub mod raw;
pub mod reply;
pub mod report;
mod scan;
pub mod session;
pub mod usage;

pub use call::{CallContext, Credential, IdempotencyKey, Principal, RequestId};
pub use chat::{ChatRequest, Message};
pub use disconnect::{DrainBounds, OnDisconnect};
pub use embedding::EmbeddingRequest;
pub use log::{Decision, LogRow, Status};
pub use model::Model;
pub use money::{NoAmount, Pico};
pub use raw::{RawObject, RawValue, Segments};
pub use reply::{ChatChunk, ChatResponse, ChatStream, EmbeddingResponse, ReplyInfo};
pub use session::{ContextUse, Session, SessionKey, StoredMessage, Turn, Version};
pub use usage::{Usage, UsageSource};
