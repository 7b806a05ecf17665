//! Who calls: API keys, tokens of an identity provider, and the limits of their callers.
//!
//! Used by `pipeline/admit.rs`. A key is checked against a snapshot in memory ([`KeyRing`]); the database is never on
//! the way of a request, and its absence never turns a good key into a wrong one.

mod api;
pub(crate) mod jwt;
mod key;
pub(crate) mod limit;
mod pepper;
mod ring;
mod scope;
mod settings;
mod store;

pub use api::{ApiKey, IssuedKey, KeyState};
pub use jwt::Bearer;
pub(crate) use key::PEPPER_LENGTH;
pub use key::{KeyHasher, KeyRecord, PreviousSecret};
pub use pepper::load_or_create_pepper;
pub use ring::{KeyAnswer, KeyRing, RingTimes};
pub use scope::{Scope, Scopes};
pub use settings::{KeyBudget, KeyChanges, NewKey};
pub use store::{CreatedKey, KeyStore, MAX_GRACE};
