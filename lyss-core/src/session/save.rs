//! Stores a turn at a store that may stumble: its answer is paid for.

use std::time::Duration;

use tokio::time::sleep;

use super::SessionStore;
use crate::{
    error::{ErrorKind, Result},
    types::session::{Appended, SessionKey, Turn, Version},
};

/// Pauses between the tries while the store does not answer. One that is back within two seconds saves the turn.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1200),
];

/// Appends a turn, again and again while the store does not answer.
///
/// # Errors
/// Those of [`SessionStore::append`].
pub(crate) async fn save(
    store: &dyn SessionStore,
    key: &SessionKey,
    turn: &Turn,
    expected: Version,
) -> Result<Appended> {
    let mut pauses = PAUSES.iter();
    let mut unsure = false;
    loop {
        let error = match store.append(key, turn, expected).await {
            Err(error) => error,
            stored => return stored,
        };
        match error.kind() {
            // It may have done it and not said so; the same turn twice is one turn.
            ErrorKind::SessionStoreUnavailable => {
                let Some(pause) = pauses.next() else {
                    return Err(error);
                };
                unsure = true;
                sleep(*pause).await;
            }
            // Done, not said, and another turn is stored since.
            ErrorKind::SessionConflict if unsure && is_stored(store, key, turn, expected).await => {
                return Ok(Appended::At(expected + 1));
            }
            _ => return Err(error),
        }
    }
}

/// Whether the turn after `expected` is this one.
async fn is_stored(
    store: &dyn SessionStore,
    key: &SessionKey,
    turn: &Turn,
    expected: Version,
) -> bool {
    let Ok(Some(session)) = store.load(key).await else {
        return false;
    };
    let stored = session
        .messages
        .iter()
        .filter(|message| message.turn == expected + 1);
    stored
        .map(|message| &message.json)
        .eq(turn.messages.iter().map(|(json, _)| json))
}
