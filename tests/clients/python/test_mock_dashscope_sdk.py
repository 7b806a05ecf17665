"""The official dashscope SDK as judge of the mock's native protocol."""

import json
from http import HTTPStatus

import dashscope
import pytest

import conftest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(dashscope, "base_http_api_url", f"{conftest.MOCK_URL}/api/v1")
    monkeypatch.setattr(dashscope, "api_key", "sk-mock")


def call(text, model="qwen-plus", **more):
    more.setdefault("result_format", "message")
    return dashscope.Generation.call(model=model, messages=[{"role": "user", "content": text}], **more)


def test_generation():
    answer = call("good morning")
    assert answer.status_code == HTTPStatus.OK
    choice = answer.output.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("stop", "echo: good morning")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert answer.request_id.startswith("req_mock_")


def test_text_is_the_default_format():
    assert call("hi", result_format="text").output.text == "echo: hi"


def test_incremental_stream():
    frames = list(call("one two", stream=True, incremental_output=True))
    assert [frame.status_code for frame in frames] == [HTTPStatus.OK] * len(frames)
    assert "".join(frame.output.choices[0].message.content for frame in frames) == "echo: one two"
    assert [frame.output.choices[0].finish_reason for frame in frames] == ["null"] * (len(frames) - 1) + ["stop"]
    assert [frame.usage.output_tokens for frame in frames] == [1, 2, 3, 3]


def test_cumulative_stream():
    frames = list(call("one two", stream=True, incremental_output=False))
    texts = [frame.output.choices[0].message.content for frame in frames]
    assert texts == ["echo: ", "echo: one ", "echo: one two", "echo: one two"]


# No "multiline": the 1.x-style calls of this SDK do not join data lines (Alibaba's own acli client does).
@pytest.mark.parametrize("form", ["crlf", "slice:1", "comment:20 stall:60@1"])
def test_forms_of_a_frame(form):
    frames = list(call(f"[[{form}]] Grüße", stream=True, incremental_output=True))
    assert "".join(frame.output.choices[0].message.content for frame in frames) == "echo: Grüße"


def test_thinking():
    frames = list(call("[[reasoning:hm_hm]] hi", stream=True, incremental_output=True, enable_thinking=True))
    thought = "".join(frame.output.choices[0].message.reasoning_content or "" for frame in frames)
    assert thought == "hm hm"
    refused = call("hi", model="qwen3-8b")
    assert refused.status_code == HTTPStatus.BAD_REQUEST
    assert "enable_thinking must be set to false" in refused.message


def test_tools():
    answer = call("[[tools:2]]", tools=[WEATHER], parallel_tool_calls=True)
    choice = answer.output.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [json.loads(tool["function"]["arguments"])["city"] for tool in choice.message.tool_calls] == ["Oslo", "Bergen"]
    assert len(call("[[tools:2]]", tools=[WEATHER]).output.choices[0].message.tool_calls) == 1


def test_streamed_tools():
    frames = list(call("[[tools:1]]", tools=[WEATHER], stream=True, incremental_output=True))
    arguments = "".join(
        tool["function"].get("arguments", "")
        for frame in frames
        for tool in frame.output.choices[0].message.get("tool_calls") or []
    )
    assert json.loads(arguments) == {"city": "Oslo"}
    assert frames[-1].output.choices[0].finish_reason == "tool_calls"


def test_multimodal():
    messages = [{"role": "user", "content": [{"image": "https://img.example/cat.png"}, {"text": "what?"}]}]
    answer = dashscope.MultiModalConversation.call(model="qwen3-vl-plus", messages=messages)
    assert answer.output.choices[0].message.content == [{"text": "echo: what? (1 images)"}]
    wrong = dashscope.MultiModalConversation.call(model="qwen-plus", messages=messages)
    assert wrong.status_code == HTTPStatus.BAD_REQUEST and "url error" in wrong.message


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidParameter"), (401, "InvalidApiKey"), (429, "Throttling.RateQuota")])
def test_errors(status, code):
    answer = call(f"[[status:{status}]]")
    assert (answer.status_code, answer.code) == (status, code)
    assert answer.request_id


def test_error_in_stream():
    frames = list(call("[[error@1]] a b", stream=True, incremental_output=True))
    assert frames[0].status_code == HTTPStatus.OK
    assert frames[-1].status_code != HTTPStatus.OK
    assert frames[-1].code == "InternalError"


def test_embeddings():
    answer = dashscope.TextEmbedding.call(model="text-embedding-v4", input=["a", "b"], dimension=64)
    assert [row["text_index"] for row in answer.output["embeddings"]] == [1, 0]
    assert answer.usage["total_tokens"] == 2
    many = dashscope.TextEmbedding.call(model="text-embedding-v4", input=["a"] * 11)
    assert many.status_code == HTTPStatus.BAD_REQUEST and "larger than 10" in many.message
