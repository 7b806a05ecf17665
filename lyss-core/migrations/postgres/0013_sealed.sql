-- Which keys data was sealed with; never the keys. A gateway that lacks one which is not retired does not start.
CREATE TABLE encryption_keys (
    id          TEXT PRIMARY KEY,
    check_value TEXT   NOT NULL,
    retired_ms  BIGINT
);

-- Providers that were set up through the admin API; a row takes the place of the configuration's entry of the same id.
-- `settings` is JSON with the members of that entry, `secrets` what of them is secret, sealed.
CREATE TABLE providers (
    id         TEXT PRIMARY KEY CHECK (id <> ''),
    settings   TEXT   NOT NULL,
    secrets    TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
INSERT INTO config_versions (name, version) VALUES ('providers', 1);
CREATE TRIGGER providers_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON providers
    FOR EACH STATEMENT EXECUTE FUNCTION raise_config_version();
