-- What a key may use and spend, and the secret it had before its rotation. `revision` rises with every change of a row,
-- so that a change is made to what was read. Absent scopes: all but `admin`, which `is_admin` says. The amount is a
-- decimal text: numbers of SQLite are binary.
ALTER TABLE api_keys ADD COLUMN concurrent INTEGER CHECK (concurrent > 0);
ALTER TABLE api_keys ADD COLUMN budget_amount TEXT;
ALTER TABLE api_keys ADD COLUMN budget_currency TEXT CHECK ((budget_amount IS NULL) = (budget_currency IS NULL));
ALTER TABLE api_keys ADD COLUMN budget_period TEXT CHECK (
    (budget_amount IS NULL) = (budget_period IS NULL) AND (budget_period IS NULL OR budget_period IN ('day', 'month', 'total')));
ALTER TABLE api_keys ADD COLUMN on_disconnect TEXT CHECK (on_disconnect IS NULL OR json_valid(on_disconnect));
ALTER TABLE api_keys ADD COLUMN scopes TEXT CHECK (scopes IS NULL OR json_valid(scopes));
ALTER TABLE api_keys ADD COLUMN previous_hash BLOB CHECK (previous_hash IS NULL OR length(previous_hash) = 32);
ALTER TABLE api_keys ADD COLUMN previous_until TEXT CHECK ((previous_hash IS NULL) = (previous_until IS NULL));
ALTER TABLE api_keys ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
