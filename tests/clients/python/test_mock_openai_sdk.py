"""The official openai SDK as judge of the mock provider itself."""

import httpx
import openai
import pytest

import conftest


@pytest.fixture
def mock():
    with openai.OpenAI(base_url=f"{conftest.MOCK_URL}/v1", api_key="sk-mock", max_retries=2) as client:
        yield client


def ask(client, text, **more):
    return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}], **more)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_status_classes(mock, status, kind):
    with pytest.raises(kind) as raised:
        ask(mock.with_options(max_retries=0), f"[[status:{status}]]")
    assert raised.value.request_id.startswith("req_mock_")


def test_sdk_retries_count(mock, upstream, marker):
    with pytest.raises(openai.InternalServerError):
        ask(mock, f"[[status:500]] {marker}")
    assert len(upstream.requests(marker)) == 3
    retried = [dict(map(tuple, request["headers"])).get("x-stainless-retry-count") for request in upstream.requests(marker)]
    assert retried == ["0", "1", "2"]


def test_sdk_obeys_x_should_retry(mock, upstream, marker):
    upstream.control(rules=[{"contains": marker, "script": {"status": 500, "headers": {"x-should-retry": "false"}}}])
    with pytest.raises(openai.InternalServerError):
        ask(mock, marker)
    assert len(upstream.requests(marker)) == 1


def test_error_in_stream(mock):
    with pytest.raises(openai.APIError, match="server had an error"):
        list(ask(mock, "[[error@2]] a b", stream=True))


def test_obfuscation_and_usage_in_every_chunk(mock):
    chunks = list(ask(mock, "[[obfuscation usage:every]] a", stream=True))
    assert all(chunk.usage for chunk in chunks)
    assert chunks[0].obfuscation


def test_required_keys(mock, upstream):
    upstream.control(keys=["sk-right"])
    with pytest.raises(openai.AuthenticationError):
        ask(mock, "hi")
    assert ask(mock.with_options(api_key="sk-right"), "hi").choices


def test_slow_head(mock):
    with pytest.raises(openai.APITimeoutError):
        ask(mock.with_options(max_retries=0, timeout=httpx.Timeout(0.2)), "[[delay:2000]]")
