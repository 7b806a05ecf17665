"""Streamed chat completions."""

import json
import time

import openai
import pytest

import conftest


def stream(client, model, text, **more):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], stream=True, **more
    )


def content(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_stream(client, model):
    chunks = list(stream(client, model, "one two three"))
    assert content(chunks) == "echo: one two three"
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]


def test_stream_helper(client, model):
    with client.chat.completions.stream(model=model, messages=[{"role": "user", "content": "a b c"}]) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        final = events.get_final_completion()
    assert "".join(deltas) == "echo: a b c" == final.choices[0].message.content


def test_include_usage(client, model):
    chunks = list(stream(client, model, "one two", stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 3, 8)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_without_include_usage_there_is_no_trace_of_it(client, model):
    create = client.chat.completions.with_streaming_response.create
    with create(model=model, messages=[{"role": "user", "content": "one two"}], stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        body = b"".join(raw.iter_bytes()).decode()
    assert body.endswith("data: [DONE]\n\n")
    events = [json.loads(line[len("data: "):]) for line in body.splitlines() if line.startswith("data: {")]
    assert len(events) >= 3
    for event in events:
        assert "usage" not in event
        assert event["choices"]


def test_reasoning_comes_first(client, model):
    chunks = list(stream(client, model, "[[reasoning:step_by_step]] hi"))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == "step by step"
    last_thought = max(at for at, thought in enumerate(thoughts) if thought)
    first_text = min(at for at, delta in enumerate(deltas) if delta.content)
    assert last_thought < first_text
    assert content(chunks) == "echo: hi"


def test_refusal_streams(client):
    chunks = list(stream(client, conftest.OPENAI_MODEL, "[[refusal]]"))
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == "I cannot help with that."


def test_logprobs_stream(client):
    chunks = list(stream(client, conftest.OPENAI_MODEL, "a b", logprobs=True))
    tokens = [entry.token for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert tokens == ["echo: ", "a ", "b"]


def test_choices_interleave(client):
    chunks = list(stream(client, conftest.OPENAI_MODEL, "a b", n=2))
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in mine) == "echo: a b"
        assert mine[-1].finish_reason == "stop"


def test_one_byte_writes(client, model):
    assert content(stream(client, model, "[[slice:1]] Grüße 你好 🦀")) == "echo: Grüße 你好 🦀"


@pytest.mark.parametrize("form", ["crlf", "cr", "comment:20 stall:100@1"])
def test_line_forms(client, model, form):
    assert content(stream(client, model, f"[[{form}]] a b")) == "echo: a b"


def test_first_chunk_does_not_wait_for_the_last(client, model):
    start = time.monotonic()
    chunks = stream(client, model, "[[chunks:5 every:400]]")
    next(iter(chunks))
    first = time.monotonic() - start
    chunks.close()
    assert first < 1.0


def test_death_in_mid_stream_raises(client, model):
    """A cut answer must not look like a complete one."""
    chunks = stream(client, model, "[[chunks:20 cut:2500]]")
    seen = []
    with pytest.raises(openai.APIError):
        seen.extend(chunks)
    assert seen
    assert not any(chunk.choices and chunk.choices[0].finish_reason for chunk in seen)


@pytest.mark.lyss
@pytest.mark.parametrize("fault", ["cut:2500", "rst:2500", "error@3", "badjson@3", "nofinish noDONE"])
def test_every_fault_in_mid_stream_is_an_error_event(client, model, fault):
    create = client.chat.completions.with_streaming_response.create
    with create(model=model, messages=[{"role": "user", "content": f"[[chunks:20 {fault}]]"}], stream=True) as raw:
        body = b"".join(raw.iter_bytes()).decode()
    assert "[DONE]" not in body
    last = [line for line in body.splitlines() if line.startswith("data: ")][-1]
    error = json.loads(last[len("data: "):])["error"]
    assert error["code"] and error["message"] and error["request_id"] == raw.headers["x-request-id"]


@pytest.mark.lyss
def test_error_before_the_first_chunk_has_its_own_status(client, model):
    with pytest.raises(openai.BadRequestError) as raised:
        stream(client, model, "[[status:400]]")
    assert raised.value.response.headers["content-type"].startswith("application/json")


@pytest.mark.lyss
def test_error_frame_instead_of_a_first_chunk(client, upstream, marker):
    """DashScope answers 200 and puts the error into the stream."""
    with pytest.raises(openai.InternalServerError):
        stream(client, conftest.DASHSCOPE_MODEL, f"[[error200]] {marker}")


def test_abort_closes_the_upstream(client, upstream, marker, model):
    chunks = stream(client, model, f"[[chunks:5000 every:20]] {marker}")
    for _, _ in zip(range(3), chunks):
        pass
    chunks.close()
    entry = upstream.outcome_within(marker, "client_closed", 1.0)
    assert entry["completion_tokens"] < 200


async def test_async_stream(async_client, model):
    chunks = await async_client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "a b"}], stream=True
    )
    assert content([chunk async for chunk in chunks]) == "echo: a b"


async def test_many_streams_at_once(async_client, model):
    import asyncio

    async def one(number):
        chunks = await async_client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": f"[[every:5]] stream {number}"}], stream=True
        )
        return content([chunk async for chunk in chunks])

    answers = await asyncio.gather(*(one(number) for number in range(30)))
    assert answers == [f"echo: stream {number}" for number in range(30)]
