-- Where Redis keeps the sessions, these tables are their archive. Turns may be archived in another order than they were
-- made in: `system_turn` is the turn that the system prompt is of.
ALTER TABLE sessions ADD COLUMN system_turn INTEGER NOT NULL DEFAULT 0;

-- Sessions made until `at_ms` under this id have been deleted: a turn of theirs that is archived late stores nothing.
CREATE TABLE session_deletions (
    user_id    TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    at_ms      INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_deletions_expiry ON session_deletions (expires_ms);
