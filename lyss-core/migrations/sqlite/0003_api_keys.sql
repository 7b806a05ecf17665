-- `id` is the key's public part; of the secret part only HMAC-SHA-256 under the pepper is kept.
CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY NOT NULL,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    user_id    TEXT,
    name       TEXT    NOT NULL DEFAULT '',
    is_admin   INTEGER NOT NULL DEFAULT 0 CHECK (is_admin IN (0, 1)),
    models     TEXT    CHECK (models IS NULL OR json_valid(models)),
    rpm        INTEGER CHECK (rpm > 0),
    tpm        INTEGER CHECK (tpm > 0),
    expires_at TEXT,
    revoked_at TEXT,
    created_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

INSERT INTO config_versions (name, version) VALUES ('api_keys', 1);
CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'api_keys'; END;
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'api_keys'; END;
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'api_keys'; END;
