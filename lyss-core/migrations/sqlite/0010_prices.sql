-- Prices of models, per million tokens, as decimal texts. They win over those of the configuration and the shipped ones.
-- The table may be edited by hand while the gateway runs.
CREATE TABLE prices (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    model             TEXT NOT NULL CHECK (model <> ''),
    -- For this provider alone; NULL for all.
    provider          TEXT CHECK (provider <> ''),
    currency          TEXT NOT NULL CHECK (currency GLOB '[A-Z][A-Z][A-Z]'),
    -- RFC 3339 in UTC with milliseconds; NULL: always has been.
    valid_from        TEXT CHECK (length(valid_from) = 24),
    input             TEXT NOT NULL CHECK (input GLOB '[0-9]*'),
    cached_input      TEXT CHECK (cached_input GLOB '[0-9]*'),
    cache_write       TEXT CHECK (cache_write GLOB '[0-9]*'),
    output            TEXT NOT NULL CHECK (output GLOB '[0-9]*'),
    reasoning         TEXT CHECK (reasoning GLOB '[0-9]*'),
    -- [{"above_input_tokens": n, "input": "1.5", …}, …]
    tiers             TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(tiers)),
    max_output_tokens INTEGER CHECK (max_output_tokens > 0),
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
CREATE UNIQUE INDEX prices_of_a_time ON prices (model, coalesce(provider, ''), coalesce(valid_from, ''));

INSERT INTO config_versions (name, version) VALUES ('prices', 1);
CREATE TRIGGER prices_inserted AFTER INSERT ON prices
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'prices'; END;
CREATE TRIGGER prices_updated AFTER UPDATE ON prices
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'prices'; END;
CREATE TRIGGER prices_deleted AFTER DELETE ON prices
BEGIN UPDATE config_versions SET version = version + 1 WHERE name = 'prices'; END;

-- Corrections of what requests were charged; rows of the log are never edited. A row's charge is that of the log plus all
-- corrections. What totals are grouped by is kept here too.
CREATE TABLE billing_adjustments (
    request_id         TEXT    NOT NULL,
    currency           TEXT    NOT NULL,
    -- 1, 2, …: two who correct the same row at once write the same number, and one of them writes nothing.
    revision           INTEGER NOT NULL,
    created_at         TEXT    NOT NULL CHECK (length(created_at) = 24),
    made_at            TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    user_id            TEXT    NOT NULL,
    api_key_id         TEXT,
    model_name         TEXT    NOT NULL,
    provider_id        TEXT    NOT NULL,
    old_price_id       TEXT    NOT NULL,
    new_price_id       TEXT    NOT NULL,
    user_charge_pico   INTEGER NOT NULL,
    provider_cost_pico INTEGER NOT NULL,
    PRIMARY KEY (request_id, currency, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX billing_adjustments_created ON billing_adjustments (created_at);
