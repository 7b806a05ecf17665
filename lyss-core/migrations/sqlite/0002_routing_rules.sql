-- One row is one target of a model. The table may be edited by hand while the gateway runs.
CREATE TABLE routing_rules (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    model_name     TEXT    NOT NULL CHECK (model_name <> ''),
    provider_id    TEXT    NOT NULL CHECK (provider_id <> ''),
    priority       INTEGER NOT NULL DEFAULT 1 CHECK (priority BETWEEN 1 AND 2147483647),
    weight         INTEGER NOT NULL DEFAULT 100 CHECK (weight BETWEEN 0 AND 2147483647),
    max_rps        INTEGER CHECK (max_rps BETWEEN 1 AND 2147483647),
    is_enabled     INTEGER NOT NULL DEFAULT 1 CHECK (is_enabled IN (0, 1)),
    upstream_model TEXT,
    created_at     TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at     TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
CREATE INDEX routing_rules_model ON routing_rules (model_name);

-- What instances poll to learn of a change: triggers raise it, so that edits by hand are noticed as well.
CREATE TABLE config_versions (
    name    TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT;
INSERT INTO config_versions (name, version) VALUES ('routing_rules', 1);

CREATE TRIGGER routing_rules_inserted AFTER INSERT ON routing_rules
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'routing_rules'; END;
CREATE TRIGGER routing_rules_updated AFTER UPDATE ON routing_rules
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'routing_rules'; END;
CREATE TRIGGER routing_rules_deleted AFTER DELETE ON routing_rules
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'routing_rules'; END;
