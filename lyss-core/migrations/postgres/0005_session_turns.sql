-- `history` is a digest by which a client that sends everything again is recognised. The prefix is what stands for the
-- messages up to `prefix_upto`, which stay stored; `prefix_version` is the fence of a compression. While
-- `compressing_until_ms` lies ahead, the request `compressing_by` compresses the session.
ALTER TABLE sessions ADD COLUMN history TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN prefix_version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN prefix_upto BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN prefix_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN summary BYTEA;
ALTER TABLE sessions ADD COLUMN summary_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN compressing_by TEXT;
ALTER TABLE sessions ADD COLUMN compressing_until_ms BIGINT;

-- Whose turn it is, also in sessions that do not exist yet; only sessions in which a turn runs or waits have a row.
-- `state` counts its times from `since_ms`. `alone` is the request that holds the turn while there is nothing else to
-- remember: its end is the row's. What is here is worth seconds, so that a crash of the server may take it (UNLOGGED);
-- no index covers what changes, so that changes are made in place.
CREATE UNLOGGED TABLE session_turns (
    user_id    TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    since_ms   BIGINT NOT NULL,
    state      TEXT   NOT NULL,
    alone      TEXT,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, id)
) WITH (fillfactor = 50);
