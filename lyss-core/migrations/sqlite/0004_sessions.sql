-- Conversations, for the database session store. Times are milliseconds since the Unix epoch: the API's own unit, and
-- the order of listings. `version` is the fence of an append; `last_request` makes the same append harmless twice.
-- AUTOINCREMENT: a `ref` is never used again, so that a reader cannot take a new session for the one it began with.
CREATE TABLE sessions (
    ref              INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id          TEXT    NOT NULL,
    id               TEXT    NOT NULL,
    version          INTEGER NOT NULL,
    message_count    INTEGER NOT NULL,
    token_count      INTEGER NOT NULL,
    created_ms       INTEGER NOT NULL,
    last_activity_ms INTEGER NOT NULL,
    expires_ms       INTEGER NOT NULL,
    last_request     TEXT,
    metadata         TEXT,
    system           BLOB,
    UNIQUE (user_id, id)
) STRICT;
CREATE INDEX sessions_listing ON sessions (user_id, last_activity_ms DESC, id DESC);
CREATE INDEX sessions_expiry ON sessions (expires_ms);

-- `json` is the message as it came, byte for byte: no type of the database may reformat it.
CREATE TABLE session_messages (
    session_ref INTEGER NOT NULL REFERENCES sessions (ref) ON DELETE CASCADE,
    seq         INTEGER NOT NULL,
    turn        INTEGER NOT NULL,
    tokens      INTEGER NOT NULL,
    json        BLOB    NOT NULL,
    PRIMARY KEY (session_ref, seq)
) STRICT, WITHOUT ROWID;
