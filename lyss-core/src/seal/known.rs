//! Which keys the database has seen: a gateway with a wrong one does not start.

use super::{Content, Keys, Place, SealKey, SealRing};
use crate::{
    database::{Database, KnownKey},
    error::{Error, Result},
    session::now_ms,
};

const CHECK: &[u8] = b"lyss";

/// A text sealed by a key, by which it is known again.
fn check_value(key: &SealKey) -> String {
    let ring = SealRing::new(key.clone(), Vec::new());
    ring.seal(&place(key.id()), CHECK)
}

fn place(id: &str) -> Place {
    Place::new(&[b"check", id.as_bytes()])
}

/// Checks the keys against those that data was sealed with, and notes which one seals from now on.
///
/// # Errors
/// `invalid_value` (param `data.encryption_key`) if data is sealed with a key that is not here; `store_unavailable`.
pub(crate) async fn verify(database: &Database, keys: &Keys) -> Result<()> {
    let known = database.known_keys().await?;
    for key in &known {
        check(key, &keys.ring)?;
    }
    let current = keys.ring.current();
    if keys.content == Content::Sealed {
        register(database, &keys.ring).await?;
    }
    for key in known {
        if !key.retired && key.id != current.id() {
            database.retire_key(&key.id, now_ms()).await?;
        }
    }
    Ok(())
}

/// Notes that the current key seals data from now on. To be called before it does.
///
/// # Errors
/// `store_unavailable`.
pub(crate) async fn register(database: &Database, ring: &SealRing) -> Result<()> {
    let current = ring.current();
    database.know_key(current.id(), &check_value(current)).await
}

fn check(known: &KnownKey, ring: &SealRing) -> Result<()> {
    let id = &known.id;
    if ring.key(id).is_some() {
        let opened = ring.open(&place(id), known.check_value.as_bytes());
        if opened.is_ok_and(|text| text == CHECK) {
            return Ok(());
        }
        return Err(Error::invalid(
            "data.encryption_key",
            format!(
                "the key {id} does not open what the database holds as its check value: \
                 it is another key, or the table encryption_keys was altered"
            ),
        ));
    }
    if known.retired {
        tracing::warn!(
            key = %id,
            "a retired encryption key is not configured any more; what is still sealed with it cannot be read"
        );
        return Ok(());
    }
    let here: Vec<&str> = ring.ids().collect();
    Err(Error::invalid(
        "data.encryption_key",
        format!(
            "data in the database is sealed with the key {id}, and that key is not here (here: {}); set it as \
             `data.encryption_key`, or list it in `data.old_encryption_keys`",
            here.join(", ")
        ),
    ))
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{database::testing, error::ErrorKind};

    fn keys(current: u8, others: &[u8], content: Content) -> Keys {
        let others = others.iter().map(|n| SealKey::new(&[*n; 32])).collect();
        Keys {
            ring: SealRing::new(SealKey::new(&[current; 32]), others),
            content,
        }
    }

    async fn a_wrong_key_is_noticed(database: Database) {
        let refused = async |keys: &Keys| {
            let error = verify(&database, keys).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue);
            assert_eq!(error.param(), Some("data.encryption_key"));
            error.message().to_owned()
        };
        // A generated key that has sealed nothing is no business of the database's.
        verify(&database, &keys(7, &[], Content::Clear))
            .await
            .unwrap();
        verify(&database, &keys(1, &[], Content::Sealed))
            .await
            .unwrap();
        verify(&database, &keys(1, &[], Content::Sealed))
            .await
            .unwrap();
        let one = SealKey::new(&[1; 32]).id().to_owned();
        for wrong in [keys(2, &[], Content::Sealed), keys(7, &[], Content::Clear)] {
            let message = refused(&wrong).await;
            assert!(message.contains(&one), "{message}");
        }
        // Rotated; the old key may go when nothing needs it any more.
        verify(&database, &keys(2, &[1], Content::Sealed))
            .await
            .unwrap();
        refused(&keys(1, &[], Content::Sealed)).await;
        verify(&database, &keys(2, &[], Content::Sealed))
            .await
            .unwrap();
        // And back again.
        verify(&database, &keys(1, &[2], Content::Sealed))
            .await
            .unwrap();
        refused(&keys(3, &[2], Content::Sealed)).await;
        // An altered check value.
        database.retire_key("none", 1).await.unwrap();
        let ring = keys(1, &[2], Content::Sealed).ring;
        let altered = KnownKey {
            id: one.clone(),
            check_value: check_value(&SealKey::new(&[9; 32])),
            retired: false,
        };
        assert!(
            check(&altered, &ring)
                .unwrap_err()
                .message()
                .contains("check value")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_key_is_noticed_on_postgres() {
        a_wrong_key_is_noticed(testing::postgres().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_key_is_noticed_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        a_wrong_key_is_noticed(testing::sqlite(directory.path()).await).await;
    }
}
