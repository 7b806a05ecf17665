-- Budgets that are made while the gateway runs, besides those of the configuration. Amounts are in 1e-9 of the currency.
CREATE TABLE budgets (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    scope       TEXT    NOT NULL CHECK (scope IN ('key', 'user', 'session', 'total')),
    subject     TEXT    NOT NULL CHECK ((subject = '') = (scope = 'total')),
    amount_nano INTEGER NOT NULL CHECK (amount_nano BETWEEN 0 AND 9000000000000000),
    currency    TEXT    NOT NULL CHECK (length(currency) = 3),
    period      TEXT    NOT NULL CHECK (period IN ('day', 'month', 'total')),
    created_at  TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at  TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
INSERT INTO config_versions (name, version) VALUES ('budgets', 1);
CREATE TRIGGER budgets_inserted AFTER INSERT ON budgets
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'budgets'; END;
CREATE TRIGGER budgets_updated AFTER UPDATE ON budgets
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'budgets'; END;
CREATE TRIGGER budgets_deleted AFTER DELETE ON budgets
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'budgets'; END;

-- What was spent and is reserved of each subject in each period. What is missing is counted anew from request_logs.
CREATE TABLE budget_counters (
    counter       TEXT    PRIMARY KEY,
    spent_nano    INTEGER NOT NULL,
    reserved_nano INTEGER NOT NULL,
    ends_ms       INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX budget_counters_ends ON budget_counters (ends_ms) WHERE ends_ms IS NOT NULL;

-- Requests that have reserved and not settled.
CREATE TABLE budget_reservations (
    request_id  TEXT    NOT NULL,
    counter     TEXT    NOT NULL,
    amount_nano INTEGER NOT NULL,
    PRIMARY KEY (request_id, counter)
) STRICT, WITHOUT ROWID;

-- What was spent by requests whose rows are no longer in request_logs.
CREATE TABLE budget_rollups (
    scope       TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    currency    TEXT    NOT NULL,
    spent_nano  INTEGER NOT NULL,
    PRIMARY KEY (scope, subject, currency)
) STRICT, WITHOUT ROWID;

-- A key's counter is counted from the key's rows.
CREATE INDEX request_logs_key ON request_logs (api_key_id, created_at) WHERE api_key_id IS NOT NULL;
