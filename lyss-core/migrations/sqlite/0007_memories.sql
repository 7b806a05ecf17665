-- What the built-in memory remembers of users. `request_id` is a UUIDv7: its order is the order in time, and it makes
-- a turn that comes twice harmless. `embedding` is little-endian float32, of the embedding model `model`.
CREATE TABLE memories (
    user_id    TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    ordinal    INTEGER NOT NULL,
    session_id TEXT,
    model      TEXT    NOT NULL,
    text       TEXT    NOT NULL,
    embedding  BLOB    NOT NULL,
    PRIMARY KEY (user_id, request_id, ordinal)
) STRICT;
CREATE INDEX memories_session ON memories (user_id, session_id);
