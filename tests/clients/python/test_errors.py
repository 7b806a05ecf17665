"""Each error of the contract is the SDK's right exception, with code and request id."""

import json
import os
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest

import conftest

MAX_BODY = int(os.environ.get("LYSS_MAX_BODY", 32 * 1024 * 1024))
MAX_RETRIES = int(os.environ.get("LYSS_MAX_RETRIES", 3))
UPSTREAM_TIMEOUT_MS = int(os.environ.get("LYSS_UPSTREAM_TIMEOUT_MS", 2000))


def ask(client, model, text="hi", **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def check(error, status, kind, code, retry=None):
    """The envelope of the contract, as the SDK shows it."""
    assert error.status_code == status
    assert error.type == kind
    assert error.code in (code if isinstance(code, set) else {code})
    assert error.request_id
    assert error.body["request_id"] == error.request_id == error.response.headers["x-request-id"]
    assert error.body["message"]
    if retry is not None:
        assert error.response.headers["x-should-retry"] == retry


def check_raw(answer, status, kind, code):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "param" in error and error["message"]
    assert answer.headers["x-should-retry"] == "false"


JSON = {"content-type": "application/json"}


@pytest.mark.lyss
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ('{"model":"m","messages":[]} trailing', "invalid_json"),
        ('{"model":"m","temperature":NaN,"messages":[{"role":"user","content":"hi"}]}', "invalid_json"),
        ('{"model":"m","messages":' + "[" * 10_000 + "]" * 10_000 + "}", "invalid_json"),
        ('{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json"),
        ('{"model":"m","model":"n","messages":[{"role":"user","content":"hi"}]}', "duplicate_key"),
        ('{"messages":[{"role":"user","content":"hi"}]}', "missing_field"),
        (f'{{"model":"{conftest.OPENAI_MODEL}"}}', "missing_field"),
        (f'{{"model":"{conftest.OPENAI_MODEL}","messages":"hi"}}', "invalid_value"),
        ('{"model":7,"messages":[{"role":"user","content":"hi"}]}', "invalid_value"),
        (f'{{"model":"{conftest.OPENAI_MODEL}","messages":[{{"role":"user","content":"hi"}}],"stream":"yes"}}', "invalid_value"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else None,
)
def test_bad_bodies(http, body, code):
    check_raw(http.post("/chat/completions", content=body, headers=JSON), 400, "invalid_request_error", code)


@pytest.mark.lyss
def test_bad_request_in_the_sdk(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=conftest.OPENAI_MODEL, messages="hi")
    check(raised.value, 400, "invalid_request_error", "invalid_value", retry="false")
    assert raised.value.param == "messages"


@pytest.mark.lyss
def test_wrong_key(base_url):
    client = openai.OpenAI(base_url=base_url, api_key="lyss_nobody_0000000000000000", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as raised:
        ask(client, conftest.OPENAI_MODEL)
    check(raised.value, 401, "authentication_error", "invalid_api_key", retry="false")


@pytest.mark.lyss
def test_no_key(http):
    del http.headers["authorization"]
    body = {"model": conftest.OPENAI_MODEL, "messages": [{"role": "user", "content": "hi"}]}
    check_raw(http.post("/chat/completions", json=body), 401, "authentication_error", "missing_api_key")


@pytest.mark.lyss
def test_another_user(client):
    with pytest.raises(openai.PermissionDeniedError) as raised:
        ask(client, conftest.OPENAI_MODEL, extra_body={"user_id": "somebody-else"})
    check(raised.value, 403, "permission_error", "user_mismatch", retry="false")


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, "no-such-model")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.lyss
def test_unknown_session_and_path(http):
    check_raw(http.get("/sessions/no-such-session"), 404, "not_found_error", "session_not_found")
    check_raw(http.get("/no/such/path"), 404, "not_found_error", "unknown_path")


@pytest.mark.lyss
def test_method_and_media_type(http):
    check_raw(http.get("/chat/completions"), 405, "invalid_request_error", "method_not_allowed")
    text = http.post("/chat/completions", content="hi", headers={"content-type": "text/plain"})
    check_raw(text, 415, "invalid_request_error", "unsupported_media_type")


@pytest.mark.lyss
def test_too_large(base_url):
    """By socket: the answer may come while the body is still being sent."""
    url = urlsplit(base_url)
    size = MAX_BODY + 1
    head = (
        f"POST {url.path}/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {conftest.API_KEY}\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(head.encode())
        try:
            block = b" " * 65536
            for _ in range(size // len(block) + 1):
                connection.sendall(block)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered and does not want the rest
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"


def test_provider_says_bad_request(client, upstream, marker, model):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, model, f"[[status:400 message:no_such_thing]] {marker}")
    assert "no_such_thing" in str(raised.value)
    assert len(upstream.requests(marker)) == 1, "a 4xx is not retried"


def test_provider_is_rate_limited(client, upstream, marker, model):
    with pytest.raises(openai.RateLimitError) as raised:
        ask(client, model, "[[status:429 retry-after:1]]")
    assert raised.value.status_code == 429
    assert raised.value.response.headers["retry-after"]
    if conftest.LYSS_URL:
        # The provider's pause is kept: nobody is sent there before it is over.
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client, model, marker)
        check(raised.value, 503, "overloaded_error", "overloaded", retry="true")
        assert upstream.requests(marker) == []
    time.sleep(int(raised.value.response.headers["retry-after"]))
    assert ask(client, model, marker).choices[0].message.content == f"echo: {marker}"


@pytest.mark.lyss
def test_provider_refuses_our_key(client, model):
    """Never the caller's 401: the caller's key is fine."""
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model, "[[status:401]]")
    check(raised.value, 502, "upstream_error", "upstream_auth_failed", retry="false")
    assert "sk-" not in str(raised.value)


@pytest.mark.lyss
@pytest.mark.parametrize("fault", ["status:500", "status:503", "error200", "rst:0"])
def test_provider_fails(client, model, fault):
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model, f"[[{fault}]]")
    assert raised.value.status_code in (502, 503)
    assert raised.value.type in ("upstream_error", "overloaded_error")
    assert raised.value.code and raised.value.request_id == raised.value.body["request_id"]


@pytest.mark.lyss
@pytest.mark.parametrize("body", ["", "{", "<html>502</html>", "[]", '{"unexpected":true}'])
def test_provider_answers_nonsense(client, upstream, marker, model, body):
    upstream.control(rules=[{"contains": marker, "script": {"body": body}}])
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model, marker)
    check(raised.value, 502, "upstream_error", "upstream_invalid_response")


@pytest.mark.lyss
def test_provider_is_cut_off(client, model):
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model, "[[cut:40]]")
    check(raised.value, 502, "upstream_error", {"upstream_incomplete", "upstream_error"})


@pytest.mark.lyss
def test_provider_is_down(client, upstream, model):
    upstream.control(down=True)
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model)
    assert raised.value.status_code in (502, 503)
    upstream.control(down=False)


@pytest.mark.lyss
def test_provider_is_too_slow(client, model):
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model, f"[[delay:{UPSTREAM_TIMEOUT_MS * 2}]]")
    check(raised.value, 504, "timeout_error", "upstream_timeout", retry="false")


@pytest.mark.lyss
def test_sdk_does_not_multiply_our_retries(base_url, upstream, marker, model):
    client = openai.OpenAI(base_url=base_url, api_key=conftest.API_KEY, max_retries=2)
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, model, f"[[status:500]] {marker}")
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert 1 <= len(upstream.requests(marker)) <= 1 + MAX_RETRIES


@pytest.mark.lyss
def test_a_passing_fault_is_hidden(client, upstream, marker, model):
    upstream.control(rules=[{"contains": marker, "times": 1, "script": {"status": 503}}])
    answer = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": marker}]
    )
    assert answer.parse().choices[0].message.content == f"echo: {marker}"
    assert answer.headers["x-lyss-attempts"] == "2"


@pytest.mark.lyss
def test_redirects_are_not_followed(client, upstream, marker, model):
    target = f"{conftest.MOCK_URL}/elsewhere"
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, model, f"[[redirect:{target}]] {marker}")
    assert raised.value.status_code == 502
    assert not any("elsewhere" in request["uri"] for request in upstream.requests(marker))
