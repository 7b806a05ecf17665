-- Where Redis keeps the sessions, these tables are their archive. Turns may be archived in another order than they were
-- made in: `system_turn` is the turn that the system prompt is of.
ALTER TABLE sessions ADD COLUMN system_turn BIGINT NOT NULL DEFAULT 0;

-- Sessions made until `at_ms` under this id have been deleted: a turn of theirs that is archived late stores nothing.
CREATE TABLE session_deletions (
    user_id    TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    at_ms      BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX session_deletions_expiry ON session_deletions (expires_ms);
