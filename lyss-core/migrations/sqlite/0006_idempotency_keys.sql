-- Answers by idempotency key. `id` is a hash of scope and key, `fingerprint` one of the request; `owner` is the request
-- that does it. State: 0 claimed, 1 dispatched, 2 done. Times are milliseconds since the Unix epoch; a lease tells
-- whether the owner is alive.
CREATE TABLE idempotency_keys (
    id          BLOB    PRIMARY KEY NOT NULL,
    fingerprint BLOB    NOT NULL,
    owner       BLOB    NOT NULL,
    state       INTEGER NOT NULL,
    lease_ms    INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    reply       BLOB
) STRICT;
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_ms);
