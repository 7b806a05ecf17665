-- Prices of models, per million tokens. They win over those of the configuration and the shipped ones. The table may be
-- edited by hand while the gateway runs.
CREATE TABLE prices (
    id                BIGSERIAL PRIMARY KEY,
    model             TEXT NOT NULL CHECK (model <> ''),
    -- For this provider alone; NULL for all.
    provider          TEXT CHECK (provider <> ''),
    currency          TEXT NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- NULL: always has been.
    valid_from        TIMESTAMPTZ,
    input             NUMERIC(15, 6) NOT NULL CHECK (input >= 0),
    cached_input      NUMERIC(15, 6) CHECK (cached_input >= 0),
    cache_write       NUMERIC(15, 6) CHECK (cache_write >= 0),
    output            NUMERIC(15, 6) NOT NULL CHECK (output >= 0),
    reasoning         NUMERIC(15, 6) CHECK (reasoning >= 0),
    -- [{"above_input_tokens": n, "input": "1.5", …}, …]
    tiers             JSONB NOT NULL DEFAULT '[]',
    max_output_tokens BIGINT CHECK (max_output_tokens > 0),
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX prices_of_a_time
    ON prices (model, coalesce(provider, ''), coalesce(valid_from, to_timestamp(0)));

INSERT INTO config_versions (name, version) VALUES ('prices', 1);
CREATE TRIGGER prices_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION raise_config_version();

-- Corrections of what requests were charged; rows of the log are never edited. A row's charge is that of the log plus all
-- corrections. What totals are grouped by is kept here too.
CREATE TABLE billing_adjustments (
    request_id         UUID        NOT NULL,
    currency           TEXT        NOT NULL,
    -- 1, 2, …: two who correct the same row at once write the same number, and one of them writes nothing.
    revision           BIGINT      NOT NULL,
    created_at         TIMESTAMPTZ NOT NULL,
    made_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    user_id            TEXT        NOT NULL,
    api_key_id         TEXT,
    model_name         TEXT        NOT NULL,
    provider_id        TEXT        NOT NULL,
    old_price_id       TEXT        NOT NULL,
    new_price_id       TEXT        NOT NULL,
    user_charge_pico   BIGINT      NOT NULL,
    provider_cost_pico BIGINT      NOT NULL,
    PRIMARY KEY (request_id, currency, revision)
);
CREATE INDEX billing_adjustments_created ON billing_adjustments (created_at);
