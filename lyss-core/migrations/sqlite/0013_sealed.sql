-- Which keys data was sealed with; never the keys. A gateway that lacks one which is not retired does not start.
CREATE TABLE encryption_keys (
    id          TEXT PRIMARY KEY NOT NULL,
    check_value TEXT    NOT NULL,
    retired_ms  INTEGER
) STRICT;

-- Providers that were set up through the admin API; a row takes the place of the configuration's entry of the same id.
-- `settings` is JSON with the members of that entry, `secrets` what of them is secret, sealed.
CREATE TABLE providers (
    id         TEXT PRIMARY KEY NOT NULL CHECK (id <> ''),
    settings   TEXT    NOT NULL CHECK (json_valid(settings)),
    secrets    TEXT,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
INSERT INTO config_versions (name, version) VALUES ('providers', 1);
CREATE TRIGGER providers_inserted AFTER INSERT ON providers
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'providers'; END;
CREATE TRIGGER providers_updated AFTER UPDATE ON providers
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'providers'; END;
CREATE TRIGGER providers_deleted AFTER DELETE ON providers
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'providers'; END;
