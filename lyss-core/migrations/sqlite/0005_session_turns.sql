-- `history` is a digest by which a client that sends everything again is recognised. The prefix is what stands for the
-- messages up to `prefix_upto`, which stay stored; `prefix_version` is the fence of a compression. While
-- `compressing_until_ms` lies ahead, the request `compressing_by` compresses the session.
ALTER TABLE sessions ADD COLUMN history TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN prefix_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN prefix_upto INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN prefix_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN summary BLOB;
ALTER TABLE sessions ADD COLUMN summary_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN compressing_by TEXT;
ALTER TABLE sessions ADD COLUMN compressing_until_ms INTEGER;

-- Whose turn it is, also in sessions that do not exist yet; only sessions in which a turn runs or waits have a row.
-- `state` counts its times from `since_ms`. `alone` is the request that holds the turn while there is nothing else to
-- remember: its end is the row's.
CREATE TABLE session_turns (
    user_id    TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    since_ms   INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    alone      TEXT,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, id)
) STRICT, WITHOUT ROWID;
