-- One row a request. A partitioned table's keys must contain the partition column; `created_at` is computed from the
-- UUIDv7 `request_id`, so (request_id, created_at) is as unique as the id alone. The service makes the months'
-- partitions ahead (src/database/partition.rs); what fits none lands in the default one.
CREATE TABLE request_logs (
    id                 BIGSERIAL,
    request_id         UUID        NOT NULL,
    created_at         TIMESTAMPTZ NOT NULL,
    user_id            TEXT        NOT NULL,
    session_id         TEXT,
    api_key_id         TEXT,
    model_name         TEXT        NOT NULL,
    provider_id        TEXT        NOT NULL,
    input_tokens       BIGINT      NOT NULL,
    output_tokens      BIGINT      NOT NULL,
    cached_tokens      BIGINT      NOT NULL,
    reasoning_tokens   BIGINT      NOT NULL,
    usage_source       TEXT        NOT NULL,
    latency_ms         BIGINT      NOT NULL,
    ttft_ms            BIGINT,
    status             TEXT        NOT NULL CHECK (status IN ('success', 'error', 'cancelled', 'rejected', 'aborted')),
    error_code         TEXT,
    error_message      TEXT,
    attempts           BIGINT      NOT NULL,
    purpose            TEXT        NOT NULL,
    stream             BOOLEAN     NOT NULL,
    client_request_id  TEXT,
    user_charge_pico   BIGINT      NOT NULL,
    provider_cost_pico BIGINT      NOT NULL,
    currency           TEXT,
    price_id           TEXT,
    decision           JSONB,
    PRIMARY KEY (request_id, created_at)
) PARTITION BY RANGE (created_at);

CREATE TABLE request_logs_default PARTITION OF request_logs DEFAULT;

CREATE INDEX request_logs_user ON request_logs (user_id, created_at);
CREATE INDEX request_logs_session ON request_logs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX request_logs_created ON request_logs (created_at);
