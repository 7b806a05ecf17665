-- Conversations, for the database session store. Times are milliseconds since the Unix epoch: the API's own unit, and
-- the order of listings. `version` is the fence of an append; `last_request` makes the same append harmless twice.
CREATE TABLE sessions (
    ref              BIGSERIAL PRIMARY KEY,
    user_id          TEXT COLLATE "C" NOT NULL,
    id               TEXT COLLATE "C" NOT NULL,
    version          BIGINT NOT NULL,
    message_count    BIGINT NOT NULL,
    token_count      BIGINT NOT NULL,
    created_ms       BIGINT NOT NULL,
    last_activity_ms BIGINT NOT NULL,
    expires_ms       BIGINT NOT NULL,
    last_request     TEXT,
    metadata         TEXT,
    system           BYTEA,
    UNIQUE (user_id, id)
);
CREATE INDEX sessions_listing ON sessions (user_id, last_activity_ms DESC, id DESC);
CREATE INDEX sessions_expiry ON sessions (expires_ms);

-- `json` is the message as it came, byte for byte: no type of the database may reformat it.
CREATE TABLE session_messages (
    session_ref BIGINT NOT NULL REFERENCES sessions (ref) ON DELETE CASCADE,
    seq         BIGINT NOT NULL,
    turn        BIGINT NOT NULL,
    tokens      BIGINT NOT NULL,
    json        BYTEA  NOT NULL,
    PRIMARY KEY (session_ref, seq)
);
