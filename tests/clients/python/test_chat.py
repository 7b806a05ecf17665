"""Chat completions that are not streamed."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel

import conftest


def ask(client, model, text, **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def test_chat(client, model):
    answer = ask(client, model, "good morning")
    assert answer.object == "chat.completion"
    assert answer.id
    choice = answer.choices[0]
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content == "echo: good morning"
    # The mock's rule: 3 for a message, 1 for a word; the echo has three words.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert answer._request_id


def test_unicode_survives(client, model):
    text = "Grüße 你好 🦀 \"quotes\" \\ back\tslash"
    assert ask(client, model, text).choices[0].message.content == f"echo: {text}"


def test_developer_and_system_roles(client, model):
    messages = [
        {"role": "developer", "content": "Be terse."},
        {"role": "user", "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]},
    ]
    answer = client.chat.completions.create(model=model, messages=messages)
    # Whether flattened parts are joined with white space is the adapter's choice.
    assert "".join(answer.choices[0].message.content.split()) == "echo:partoneparttwo"


def test_length_is_reported(client, model):
    answer = ask(client, model, "[[chunks:50]]", max_completion_tokens=10)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 10


def test_limits_at_their_ends(client, model):
    """OpenAI takes temperature 2 and top_p 0; DashScope does not, and the client must not notice."""
    assert ask(client, model, "hi", temperature=2, top_p=1).choices[0].message.content == "echo: hi"
    assert ask(client, model, "hi", temperature=0, top_p=0).choices[0].message.content == "echo: hi"


def test_several_choices(client):
    answer = ask(client, conftest.OPENAI_MODEL, "hi", n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_refusal(client):
    message = ask(client, conftest.OPENAI_MODEL, "[[refusal]] please").choices[0].message
    assert message.content is None
    assert message.refusal == "I cannot help with that."


def test_reasoning_fields_pass(client, model):
    message = ask(client, model, "[[reasoning:step_by_step]] hi").choices[0].message
    assert message.reasoning_content == "step by step"
    assert message.content == "echo: hi"


def test_logprobs_pass(client):
    choice = ask(client, conftest.OPENAI_MODEL, "a b", logprobs=True).choices[0]
    assert [entry.token for entry in choice.logprobs.content] == ["echo: ", "a ", "b"]
    assert choice.logprobs.content[0].logprob == -0.25


PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize("model", [conftest.OPENAI_MODEL, conftest.DASHSCOPE_VISION])
def test_image_parts(client, upstream, marker, model):
    parts = [
        {"type": "text", "text": f"what is this {marker}"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://img.example/cat.png"}},
    ]
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == f"echo: what is this {marker} (2 images)"
    assert PIXEL in upstream.requests(marker)[0]["body"]


class Weather(BaseModel):
    city: str
    kind: Literal["sun", "rain"]
    degrees: int


def test_json_schema(client, model):
    schema = {
        "name": "weather",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
            "required": ["city", "degrees"],
            "additionalProperties": False,
        },
    }
    answer = ask(client, model, "weather?", response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(answer.choices[0].message.content) == {"city": "Oslo", "degrees": 1}


def test_parse(client, model):
    answer = client.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": "weather?"}], response_format=Weather
    )
    assert answer.choices[0].message.parsed == Weather(city="Oslo", kind="sun", degrees=1)


def test_json_object(client, model):
    answer = ask(client, model, "answer in json", response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"ok": True}


def test_raw_response_headers(client, model):
    raw = client.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": "hi"}])
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == "echo: hi"


@pytest.mark.lyss
def test_gateway_headers(client, model):
    raw = client.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": "hi"}])
    assert raw.headers["x-lyss-provider"]
    assert raw.headers["x-lyss-attempts"] == "1"
    assert len(raw.headers["x-request-id"]) == 36


def test_extra_body_reaches_the_provider(client, upstream, marker):
    extra = {"x_vendor": {"deep": [1, None, {"zeta": 1, "alpha": 2}]}, "enable_thinking": False}
    ask(client, conftest.OPENAI_MODEL, marker, extra_body=extra, seed=2**53 + 1)
    body = upstream.bodies(marker)[0]
    assert body["x_vendor"] == extra["x_vendor"]
    assert body["enable_thinking"] is False
    assert body["seed"] == 2**53 + 1


def test_unknown_fields_travel_byte_for_byte(http, upstream, marker):
    """Key order, number spelling, escapes and white space inside a field nobody knows."""
    odd = r'"x_odd":{"z":1.50,"a":1e2, "big":123456789012345678901234567890,"esc":"\u00e9\/é","n":null}'
    part = r'"x_part": [ 1.0,2 ]'
    body = (
        f'{{"model":"{conftest.OPENAI_MODEL}",{odd},"messages":[{{"role":"user","content":"{marker}",{part}}}]}}'
    )
    http.post("/chat/completions", content=body, headers={"content-type": "application/json"}).raise_for_status()
    sent = upstream.requests(marker)[0]["body"]
    assert odd in sent
    assert part in sent


@pytest.mark.lyss
def test_gateway_fields_stay_in_the_gateway(client, upstream, marker, model):
    answer = ask(client, model, marker, extra_body={"session_id": "new"})
    assert marker in answer.choices[0].message.content
    for request in upstream.requests(marker):
        assert "session_id" not in request["body"]
        assert "user_id" not in request["body"]
        headers = {name: value for name, value in request["headers"]}
        assert conftest.API_KEY not in headers.get("authorization", ""), "the caller's key reached the provider"
        assert not any(name.startswith("x-stainless") for name in headers)


async def test_async(async_client, model):
    answer = await async_client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "echo: hi"
