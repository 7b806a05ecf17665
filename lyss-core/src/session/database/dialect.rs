//! What the two databases say differently. Both take `$n` for a parameter; what they say alike stands where it is used.

use crate::database::{Database, Pool};

/// The words of one database.
#[cfg_attr(not(feature = "redis"), allow(dead_code))] // The archive's are for what is in Redis.
pub(super) struct Dialect {
    /// Whether a question goes over a network, and costs more than what it asks for.
    pub is_remote: bool,
    /// A session without what only a turn needs: `$1` user, `$2` id, `$3` now.
    pub header: &'static str,
    /// A session as a turn needs it; the same parameters.
    pub whole: &'static str,
    /// A page of a listing: `$1` user, `$2` now, `$3` and `$4` activity and id of the last one seen, `$5` how many.
    pub list: &'static str,
    /// Whose turn it is: `$1` user, `$2` id.
    pub look: &'static str,
    /// The same, and nobody else may change it until the transaction ends.
    pub lock: &'static str,
    /// Takes a turn that nobody has or waits for: `$1` user, `$2` id, `$3` state, `$4` request, `$5` its life.
    pub claim: &'static str,
    /// Writes down whose turn it is: `$1` user, `$2` id, `$3` state, `$4` request, `$5` its life.
    pub put: &'static str,
    /// Lets one transaction at a time archive a session: `$1` user, `$2` id. `None` where only one writes anyway.
    pub lock_archive: Option<&'static str>,
    /// Reference, version, creation and last request of a session, locked: `$1` user, `$2` id.
    pub lock_session: &'static str,
    /// Removes turns that nobody asks about.
    pub sweep_turns: &'static str,
    /// Marks a session as being compressed: `$1` user, `$2` id, `$3` now, `$4` request, `$5` lease.
    pub begin_compression: &'static str,
}

macro_rules! dialect {
    ($name:ident, is_remote: $is_remote:literal, clock: $clock:literal, lock: $lock:literal,
     lock_archive: $lock_archive:expr) => {
        const $name: Dialect = Dialect {
            is_remote: $is_remote,
            header: concat!(
                "SELECT ref, version, message_count, token_count, created_ms, last_activity_ms, expires_ms, id,
                 metadata, prefix_upto, compressing_until_ms - ", $clock, " AS compressing_left_ms
                 FROM sessions WHERE user_id = $1 AND id = $2 AND expires_ms > $3"
            ),
            whole: concat!(
                "SELECT ref, version, message_count, token_count, created_ms, last_activity_ms, expires_ms, id,
                 metadata, prefix_upto, compressing_until_ms - ", $clock, " AS compressing_left_ms,
                 history, system, prefix_version, prefix_tokens, summary, summary_tokens, last_request
                 FROM sessions WHERE user_id = $1 AND id = $2 AND expires_ms > $3"
            ),
            list: concat!(
                "SELECT ref, version, message_count, token_count, created_ms, last_activity_ms, expires_ms, id,
                 metadata, prefix_upto, compressing_until_ms - ", $clock, " AS compressing_left_ms
                 FROM sessions WHERE user_id = $1 AND expires_ms > $2
                 AND (last_activity_ms < $3 OR (last_activity_ms = $3 AND id < $4))
                 ORDER BY last_activity_ms DESC, id DESC LIMIT $5"
            ),
            look: concat!(
                "SELECT state, ", $clock, " - since_ms FROM session_turns WHERE user_id = $1 AND id = $2"
            ),
            lock: concat!(
                "SELECT state, ", $clock, " - since_ms FROM session_turns WHERE user_id = $1 AND id = $2", $lock
            ),
            claim: concat!(
                "INSERT INTO session_turns (user_id, id, since_ms, state, alone, expires_ms)
                 VALUES ($1, $2, ", $clock, ", $3, $4, ", $clock, " + $5) ON CONFLICT (user_id, id) DO NOTHING"
            ),
            put: concat!(
                "UPDATE session_turns SET state = $3, alone = $4, expires_ms = ", $clock, " + $5
                 WHERE user_id = $1 AND id = $2"
            ),
            lock_archive: $lock_archive,
            lock_session: concat!(
                "SELECT ref, version, created_ms, last_request FROM sessions WHERE user_id = $1 AND id = $2", $lock
            ),
            sweep_turns: concat!("DELETE FROM session_turns WHERE expires_ms <= ", $clock),
            begin_compression: concat!(
                "UPDATE sessions SET compressing_by = $4, compressing_until_ms = ", $clock, " + $5
                 WHERE user_id = $1 AND id = $2 AND expires_ms > $3
                 AND (compressing_until_ms IS NULL OR compressing_until_ms <= ", $clock, ")"
            ),
        };
    };
}

// Several machines use one PostgreSQL: leases are counted by its clock.
#[cfg(feature = "postgres")]
dialect! {
    POSTGRES,
    is_remote: true,
    clock: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    lock: " FOR UPDATE",
    lock_archive: Some("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))")
}

#[cfg(feature = "sqlite")]
dialect! {
    SQLITE,
    is_remote: false,
    clock: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    lock: "",
    lock_archive: None
}

impl Dialect {
    pub fn of(database: &Database) -> &'static Self {
        match database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(_) => &POSTGRES,
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => &SQLITE,
        }
    }
}
