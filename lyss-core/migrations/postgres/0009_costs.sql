-- Tokens written to the provider's prompt cache have a price of their own.
ALTER TABLE request_logs ADD COLUMN cache_write_tokens BIGINT NOT NULL DEFAULT 0;

-- Every attempt on a provider, from the rows' decisions. The tokens and the cost of an attempt are absent where it cost
-- nothing that is known.
CREATE VIEW request_attempts AS
SELECT r.request_id, r.created_at, a.position AS attempt,
       a.value ->> 'provider_id' AS provider_id, a.value ->> 'model_name' AS model_name,
       (a.value ->> 'started_ms')::bigint AS started_ms, (a.value ->> 'latency_ms')::bigint AS latency_ms,
       a.value ->> 'outcome' AS outcome, (a.value ->> 'upstream_status')::bigint AS upstream_status,
       a.value ->> 'error' AS error,
       coalesce((a.value #>> '{cost,input_tokens}')::bigint, 0) AS input_tokens,
       coalesce((a.value #>> '{cost,output_tokens}')::bigint, 0) AS output_tokens,
       coalesce((a.value #>> '{cost,cached_tokens}')::bigint, 0) AS cached_tokens,
       coalesce((a.value #>> '{cost,cache_write_tokens}')::bigint, 0) AS cache_write_tokens,
       coalesce((a.value #>> '{cost,reasoning_tokens}')::bigint, 0) AS reasoning_tokens,
       a.value #>> '{cost,usage_source}' AS usage_source,
       coalesce((a.value #>> '{cost,pico}')::bigint, 0) AS cost_pico,
       a.value #>> '{cost,currency}' AS currency, a.value #>> '{cost,price_id}' AS price_id
FROM request_logs r, jsonb_array_elements(r.decision -> 'attempts') WITH ORDINALITY a (value, position);
