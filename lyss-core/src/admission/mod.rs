//! Who calls: API keys.
//!
//! Used by `pipeline/admit.rs`. A key is checked against a snapshot in memory ([`KeyRing`]); the database is never on
//! the way of a request, and its absence never turns a good key into a wrong one.

mod key;
mod pepper;
mod ring;
mod store;

pub use key::{KeyHasher, KeyRecord};
pub use pepper::load_or_create_pepper;
pub use ring::{KeyAnswer, KeyRing, RingTimes};
pub use store::{CreatedKey, KeyStore, NewKey};
