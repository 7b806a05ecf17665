-- What a key may use and spend, and the secret it had before its rotation. `revision` rises with every change of a row,
-- so that a change is made to what was read. Absent scopes: all but `admin`, which `is_admin` says.
ALTER TABLE api_keys
    ADD COLUMN concurrent      BIGINT CHECK (concurrent > 0),
    ADD COLUMN budget_amount   NUMERIC(38, 12) CHECK (budget_amount >= 0),
    ADD COLUMN budget_currency TEXT,
    ADD COLUMN budget_period   TEXT CHECK (budget_period IN ('day', 'month', 'total')),
    ADD COLUMN on_disconnect   JSONB,
    ADD COLUMN scopes          JSONB,
    ADD COLUMN previous_hash   BYTEA CHECK (octet_length(previous_hash) = 32),
    ADD COLUMN previous_until  TIMESTAMPTZ,
    ADD COLUMN revision        BIGINT NOT NULL DEFAULT 1,
    ADD CHECK ((budget_amount IS NULL) = (budget_currency IS NULL) AND (budget_amount IS NULL) = (budget_period IS NULL)),
    ADD CHECK ((previous_hash IS NULL) = (previous_until IS NULL));
