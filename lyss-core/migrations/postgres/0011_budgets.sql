-- Budgets that are made while the gateway runs, besides those of the configuration. Amounts are in 1e-9 of the currency.
CREATE TABLE budgets (
    id          BIGSERIAL PRIMARY KEY,
    scope       TEXT        NOT NULL CHECK (scope IN ('key', 'user', 'session', 'total')),
    subject     TEXT        NOT NULL CHECK ((subject = '') = (scope = 'total')),
    amount_nano BIGINT      NOT NULL CHECK (amount_nano BETWEEN 0 AND 9000000000000000),
    currency    TEXT        NOT NULL CHECK (length(currency) = 3),
    period      TEXT        NOT NULL CHECK (period IN ('day', 'month', 'total')),
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO config_versions (name, version) VALUES ('budgets', 1);
CREATE TRIGGER budgets_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON budgets
    FOR EACH STATEMENT EXECUTE FUNCTION raise_config_version();

-- What was spent and is reserved of each subject in each period. What is missing is counted anew from request_logs.
CREATE TABLE budget_counters (
    counter       TEXT   PRIMARY KEY,
    spent_nano    BIGINT NOT NULL,
    reserved_nano BIGINT NOT NULL,
    ends_ms       BIGINT
);
CREATE INDEX budget_counters_ends ON budget_counters (ends_ms) WHERE ends_ms IS NOT NULL;

-- Requests that have reserved and not settled.
CREATE TABLE budget_reservations (
    request_id  UUID   NOT NULL,
    counter     TEXT   NOT NULL,
    amount_nano BIGINT NOT NULL,
    PRIMARY KEY (request_id, counter)
);

-- What was spent by requests whose rows are no longer in request_logs.
CREATE TABLE budget_rollups (
    scope       TEXT   NOT NULL,
    subject     TEXT   NOT NULL,
    currency    TEXT   NOT NULL,
    spent_nano  BIGINT NOT NULL,
    PRIMARY KEY (scope, subject, currency)
);

-- A key's counter is counted from the key's rows.
CREATE INDEX request_logs_key ON request_logs (api_key_id, created_at) WHERE api_key_id IS NOT NULL;
