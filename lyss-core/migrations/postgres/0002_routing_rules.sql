-- One row is one target of a model. The table may be edited by hand while the gateway runs.
CREATE TABLE routing_rules (
    id             BIGSERIAL PRIMARY KEY,
    model_name     TEXT        NOT NULL CHECK (model_name <> ''),
    provider_id    TEXT        NOT NULL CHECK (provider_id <> ''),
    priority       INTEGER     NOT NULL DEFAULT 1 CHECK (priority >= 1),
    weight         INTEGER     NOT NULL DEFAULT 100 CHECK (weight >= 0),
    max_rps        INTEGER     CHECK (max_rps > 0),
    is_enabled     BOOLEAN     NOT NULL DEFAULT TRUE,
    upstream_model TEXT,
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX routing_rules_model ON routing_rules (model_name);

-- What instances poll to learn of a change: triggers raise it, so that edits by hand are noticed as well.
CREATE TABLE config_versions (
    name    TEXT PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO config_versions (name, version) VALUES ('routing_rules', 1);

CREATE FUNCTION raise_config_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE config_versions SET version = version + 1 WHERE name = TG_TABLE_NAME;
    RETURN NULL;
END
$$;
CREATE TRIGGER routing_rules_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON routing_rules
    FOR EACH STATEMENT EXECUTE FUNCTION raise_config_version();
