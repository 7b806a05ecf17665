-- `id` is the key's public part; of the secret part only HMAC-SHA-256 under the pepper is kept.
CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    hash       BYTEA       NOT NULL CHECK (octet_length(hash) = 32),
    user_id    TEXT,
    name       TEXT        NOT NULL DEFAULT '',
    is_admin   BOOLEAN     NOT NULL DEFAULT FALSE,
    models     JSONB,
    rpm        BIGINT      CHECK (rpm > 0),
    tpm        BIGINT      CHECK (tpm > 0),
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

INSERT INTO config_versions (name, version) VALUES ('api_keys', 1);
CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION raise_config_version();
