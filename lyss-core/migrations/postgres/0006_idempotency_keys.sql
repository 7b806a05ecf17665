-- Answers by idempotency key. `id` is a hash of scope and key, `fingerprint` one of the request; `owner` is the request
-- that does it. State: 0 claimed, 1 dispatched, 2 done. Times are milliseconds since the Unix epoch by this server's
-- clock; a lease tells whether the owner is alive.
CREATE TABLE idempotency_keys (
    id          BYTEA   PRIMARY KEY,
    fingerprint BYTEA   NOT NULL,
    owner       BYTEA   NOT NULL,
    state       INTEGER NOT NULL,
    lease_ms    BIGINT  NOT NULL,
    expires_ms  BIGINT  NOT NULL,
    reply       BYTEA
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_ms);
