-- One row a request; the columns are those of PostgreSQL. `created_at` is RFC 3339 in UTC with milliseconds, always 24
-- characters, so that text order is time order.
CREATE TABLE request_logs (
    id                 INTEGER PRIMARY KEY,
    request_id         TEXT    NOT NULL UNIQUE,
    created_at         TEXT    NOT NULL CHECK (length(created_at) = 24),
    user_id            TEXT    NOT NULL,
    session_id         TEXT,
    api_key_id         TEXT,
    model_name         TEXT    NOT NULL,
    provider_id        TEXT    NOT NULL,
    input_tokens       INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    reasoning_tokens   INTEGER NOT NULL,
    usage_source       TEXT    NOT NULL,
    latency_ms         INTEGER NOT NULL,
    ttft_ms            INTEGER,
    status             TEXT    NOT NULL CHECK (status IN ('success', 'error', 'cancelled', 'rejected', 'aborted')),
    error_code         TEXT,
    error_message      TEXT,
    attempts           INTEGER NOT NULL,
    purpose            TEXT    NOT NULL,
    stream             INTEGER NOT NULL CHECK (stream IN (0, 1)),
    client_request_id  TEXT,
    user_charge_pico   INTEGER NOT NULL,
    provider_cost_pico INTEGER NOT NULL,
    currency           TEXT,
    price_id           TEXT,
    decision           TEXT
) STRICT;

CREATE INDEX request_logs_user ON request_logs (user_id, created_at);
CREATE INDEX request_logs_session ON request_logs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX request_logs_created ON request_logs (created_at);
