"""An idempotency key makes the SDK's own retries harmless: what was sent twice is done once."""

import httpx
import openai
import pytest

import conftest

pytestmark = pytest.mark.lyss


def body(model, text, **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def impatient(base_url):
    """Gives up before the provider has answered, and tries again."""
    return openai.OpenAI(base_url=base_url, api_key=conftest.API_KEY, max_retries=3, timeout=httpx.Timeout(0.6))


def test_a_call_that_timed_out_is_fetched_and_not_made_again(base_url, upstream, marker, model):
    with impatient(base_url) as client:
        answer = client.chat.completions.create(
            **body(model, f"[[delay:1200]] {marker}"), extra_headers={"Idempotency-Key": marker}
        )
    assert answer.choices[0].message.content == f"echo: {marker}"
    assert len(upstream.requests(marker)) == 1


def test_every_call_of_a_client_with_a_key_of_its_own(base_url, upstream, marker):
    with impatient(base_url) as client:
        # The SDK makes a key for each call and keeps it over its retries; this names the header to send it in.
        client._idempotency_header = "Idempotency-Key"
        for n in range(2):
            text = f"[[delay:1200]] {marker} {n}"
            answer = client.chat.completions.create(**body(conftest.OPENAI_MODEL, text))
            assert answer.choices[0].message.content == f"echo: {marker} {n}"
    assert len(upstream.requests(marker)) == 2


def test_the_same_call_twice(client, upstream, marker, model):
    header = {"Idempotency-Key": marker}
    request = body(model, marker, extra_headers=header)
    first, second = (client.chat.completions.with_raw_response.create(**request) for _ in range(2))
    assert first.text == second.text
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert len(upstream.requests(marker)) == 1
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(**body(model, f"other {marker}"), extra_headers=header)
    assert raised.value.code == "idempotency_key_reused"
    assert raised.value.response.headers["x-should-retry"] == "false"


def test_the_same_stream_twice(client, upstream, marker, model):
    request = body(model, marker, stream=True, stream_options={"include_usage": True})
    first, second = (
        list(client.chat.completions.create(**request, extra_headers={"Idempotency-Key": marker})) for _ in range(2)
    )
    assert [chunk.to_dict() for chunk in first] == [chunk.to_dict() for chunk in second]
    assert first[-1].usage.total_tokens > 0
    assert len(upstream.requests(marker)) == 1


def test_the_same_embedding_twice(client, upstream, marker):
    def embed():
        return client.embeddings.create(
            model=conftest.OPENAI_EMBEDDINGS, input=marker, extra_headers={"Idempotency-Key": marker}
        )

    assert embed().data[0].embedding == embed().data[0].embedding
    assert len(upstream.requests(marker)) == 1
