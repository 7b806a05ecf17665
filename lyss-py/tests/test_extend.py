"""Parts of the engine that are written in Python."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, AsyncIterator, Iterator, Optional

import lyss
import pytest

from conftest import USER, configuration


def ask(gw: lyss.Gateway, text: str, model: str = "mine/m", **params: Any) -> Any:
    return gw.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], **params
    )


def texts(stream: Any) -> list[str]:
    return [c.delta.content for chunk in stream for c in chunk.choices if c.delta.content]


def last(request: dict[str, Any]) -> str:
    text: str = request["messages"][-1]["content"]
    return text


class Plain:
    """Answers at once, with whole answers only."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def chat(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        message = {"role": "assistant", "content": last(request)}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        }


class Awaited:
    """Answers from a loop."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def chat(self, request: dict[str, Any]) -> str:
        await asyncio.sleep(0.01)
        return f"you said: {last(request)}"

    async def chat_stream(self, request: dict[str, Any]) -> AsyncIterator[str]:
        try:
            for word in last(request).split():
                yield word
                await asyncio.sleep(30 if word == "wait" else 0)
                if word == "break":
                    raise KeyError("a secret")
        finally:
            self.ended.set()

    async def embeddings(self, request: dict[str, Any]) -> list[list[float]]:
        return [[0.5, float(len(text))] for text in request["input"]]


def test_a_plain_provider(gw: lyss.Gateway) -> None:
    provider = Plain()
    gw.register_provider("mine", provider, models=["by-name"])
    answer = ask(gw, "a", temperature=0.5, extra_body={"own": [1]})
    assert answer.choices[0].message.content == "a" and answer.usage.total_tokens == 7
    assert answer.meta.provider == "mine"
    assert provider.requests[0]["own"] == [1] and provider.requests[0]["model"] == "m"
    assert ask(gw, "b", model="by-name").choices[0].message.content == "b"
    chunks = list(ask(gw, "c", stream=True, stream_options={"include_usage": True}))
    assert texts(chunks) == ["c"] and chunks[-1].usage.total_tokens == 7
    with pytest.raises(lyss.BadRequestError, match="does not serve this kind of call"):
        gw.embeddings.create(model="mine/m", input="x")


def test_an_async_provider(gw: lyss.Gateway) -> None:
    gw.register_provider("mine", Awaited())
    assert ask(gw, "a b").choices[0].message.content == "you said: a b"
    assert texts(ask(gw, "a b", stream=True)) == ["a", "b"]
    vectors = gw.embeddings.create(model="mine/m", input=["x", "xyz"])
    assert [entry.embedding for entry in vectors.data] == [[0.5, 1.0], [0.5, 3.0]]


async def test_an_async_provider_of_an_async_gateway(config: dict[str, Any]) -> None:
    async with lyss.AsyncGateway(config=config) as gw:
        gw.register_provider("mine", Awaited())
        answers = await asyncio.gather(
            *(
                gw.chat.completions.create(
                    model="mine/m", messages=[{"role": "user", "content": str(number)}]
                )
                for number in range(50)
            )
        )
        assert [a.choices[0].message.content for a in answers] == [
            f"you said: {number}" for number in range(50)
        ]


def test_a_stream_that_is_left_closes_the_generator(gw: lyss.Gateway) -> None:
    provider = Awaited()
    gw.register_provider("mine", provider)
    stream = ask(gw, "a wait", stream=True)
    assert next(stream).choices[0].delta.content == "a"
    assert not provider.ended.is_set()
    stream.close()
    assert provider.ended.wait(2)


def test_a_plain_generator_is_closed(gw: lyss.Gateway) -> None:
    ended = threading.Event()

    class Generating(Plain):
        def chat_stream(self, request: dict[str, Any]) -> Iterator[str]:
            try:
                for number in range(1_000_000):
                    yield str(number)
            finally:
                ended.set()

    gw.register_provider("mine", Generating())
    stream = ask(gw, "x", stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(3)] == ["0", "1", "2"]
    stream.close()
    assert ended.wait(2)


@pytest.mark.parametrize(
    ("error", "cls", "code"),
    [
        (lyss.BadRequestError("no", status_code=400, code="own"), lyss.BadRequestError, "own"),
        (lyss.NotFoundError("no", status_code=404), lyss.NotFoundError, "model_not_found"),
        (lyss.RateLimitError("no", status_code=429, retry_after=3), lyss.RateLimitError, "rate_limited"),
        (lyss.AuthenticationError("no", status_code=401), lyss.InternalServerError, "upstream_auth_failed"),
        (ValueError("a secret"), lyss.InternalServerError, "upstream_error"),
    ],
)
def test_what_a_provider_raises(
    tmp_path: Any, caplog: Any, error: Exception, cls: type, code: str
) -> None:
    class Raising:
        def chat(self, request: dict[str, Any]) -> Any:
            raise error

        async def chat_stream(self, request: dict[str, Any]) -> AsyncIterator[str]:
            raise error
            yield ""

    for stream in (False, True):
        config = configuration(tmp_path / str(stream), routing={"max_retries": 0})
        with lyss.Gateway(config=config) as gw:
            gw.register_provider("mine", Raising())
            with caplog.at_level(logging.ERROR, "lyss"), pytest.raises(cls) as raised:
                ask(gw, "x", stream=stream)
            assert raised.value.code == code
            if isinstance(error, ValueError):
                assert "ValueError" in raised.value.message and "secret" not in str(raised.value)
                assert any(record.exc_info for record in caplog.records)
            if isinstance(error, lyss.RateLimitError):
                assert raised.value.retry_after == 3


def test_a_stream_that_a_provider_breaks_off(gw: lyss.Gateway, caplog: Any) -> None:
    gw.register_provider("mine", Awaited())
    stream = ask(gw, "a break b", stream=True)
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(lyss.InternalServerError) as raised:
        list(stream)
    assert "KeyError" in raised.value.message and "secret" not in str(raised.value)


def test_a_provider_that_calls_the_gateway(gw: lyss.Gateway) -> None:
    class Calling:
        def chat(self, request: dict[str, Any]) -> str:
            return f"<{ask(gw, last(request), model='simulated/echo').choices[0].message.content}>"

        async def chat_stream(self, request: dict[str, Any]) -> AsyncIterator[str]:
            # Holds up the loop of all providers, and must not stop the call that it waits for.
            yield ask(gw, last(request)).choices[0].message.content

    gw.register_provider("mine", Calling())
    assert ask(gw, "a").choices[0].message.content == "<a>"
    assert texts(ask(gw, "b", stream=True)) == ["<b>"]


def test_a_provider_is_replaced_while_calls_run(gw: lyss.Gateway) -> None:
    stop = threading.Event()
    wrong: list[BaseException] = []

    def call() -> None:
        while not stop.is_set():
            try:
                ask(gw, "x")
            except BaseException as error:
                wrong.append(error)
                return

    gw.register_provider("mine", Plain())
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        gw.register_provider("mine", Plain())
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


class First:
    """Always the target that was configured first."""

    made: list[int] = []
    told: list[tuple[int, bool, float]] = []

    def __init__(self, size: int) -> None:
        self.made.append(size)

    def pick(
        self, candidates: list[dict[str, int]], session: Optional[tuple[str, str]]
    ) -> Optional[int]:
        if session == ("u", "fail"):
            raise RuntimeError("a defect")
        return min(range(len(candidates)), key=lambda at: candidates[at]["index"])

    def observe(self, index: int, success: bool, latency: float) -> None:
        self.told.append((index, success, latency))


def test_a_load_balancer(tmp_path: Any, caplog: Any) -> None:
    rules = [{"model": "m", "provider": provider} for provider in ("a", "b")]
    config = {
        "data": {"dir": str(tmp_path)},
        "providers": {"a": {"kind": "simulated"}, "b": {"kind": "simulated"}},
        "routing": {"load_balancer": "first", "rules": rules},
    }
    with lyss.Gateway(config=config, load_balancers={"first": First}) as gw:
        picked = [
            gw.chat.completions.create(model="m", messages=USER).meta.provider for _ in range(6)
        ]
        assert len(set(picked)) == 1
        assert 2 in First.made and len(First.told) == 6
        assert all(success and latency >= 0 for _, success, latency in First.told)
        # One that fails is stood in for.
        answer = gw.chat.completions.create(
            model="m", messages=USER, session_id="fail", user_id="u"
        )
        assert answer.choices[0].message.content == "hello there"
        assert "a load balancer failed" in caplog.text


class Sessions:
    """The smallest store that keeps its promises."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str], dict[str, Any]] = {}
        self.lock = threading.Lock()

    def _new(self, user_id: str, id: str, metadata: Any = None) -> dict[str, Any]:
        now = int(time.time() * 1000)
        session = {
            "id": id,
            "message_count": 0,
            "token_count": 0,
            "created_ms": now,
            "last_activity_ms": now,
            "metadata": metadata,
        }
        state = {"session": session, "version": 0, "history": "", "system": None, "messages": []}
        return self.sessions.setdefault((user_id, id), state)

    async def create(self, user_id: str, id: str, metadata: Any) -> Any:
        return self._new(user_id, id, metadata)["session"]

    def get(self, user_id: str, id: str) -> Any:
        state = self.sessions.get((user_id, id))
        return state and state["session"]

    async def load(self, user_id: str, id: str) -> Any:
        return self.sessions.get((user_id, id))

    def append(self, user_id: str, id: str, turn: dict[str, Any], expected: int) -> Any:
        with self.lock:
            state = self._new(user_id, id)
            if state.get("last") == turn["request_id"]:
                return state["version"]
            if state["version"] != expected:
                raise lyss.ConflictError("another turn was stored", status_code=409)
            state["version"] += 1
            for message in turn["messages"]:
                seq = len(state["messages"]) + 1
                state["messages"].append({**message, "seq": seq, "turn": state["version"]})
            state["last"] = turn["request_id"]
            state["history"] = turn["history"]
            state["system"] = turn["system"] or state["system"]
            state["session"]["message_count"] = len(state["messages"])
            state["session"]["last_activity_ms"] = int(time.time() * 1000)
            version: int = state["version"]
            return version

    def messages(self, user_id: str, id: str, after: int, limit: int) -> Any:
        state = self.sessions.get((user_id, id))
        if state is None:
            return None
        later = [message for message in state["messages"] if message["seq"] > after]
        return {"session": state["session"], "messages": later[:limit]}

    def list(self, user_id: str, cursor: Optional[str], limit: int) -> Any:
        found = [state["session"] for (user, _), state in self.sessions.items() if user == user_id]
        return {"sessions": found[:limit], "next_cursor": None}

    def delete(self, user_id: str, id: str) -> bool:
        return self.sessions.pop((user_id, id), None) is not None

    def ping(self) -> None:
        pass


def test_a_session_store(config: dict[str, Any]) -> None:
    store = Sessions()
    with lyss.Gateway(config=config, session_store=store) as gw:
        me = gw.with_options(user_id="u")
        for text in ("one", "two"):
            ask(me, text, model="simulated/echo", session_id="s")
        assert me.sessions.retrieve("s").message_count == 4
        stored = [entry.message.content for entry in me.sessions.messages("s")]
        assert stored == ["one", "one", "two", "two"]
        assert [session.id for session in me.sessions.list()] == ["s"]
        assert me.sessions.create("t", metadata={"a": 1}).metadata == {"a": 1}
        me.sessions.delete("s")
        with pytest.raises(lyss.NotFoundError):
            me.sessions.retrieve("s")


def test_a_session_store_that_fails(config: dict[str, Any], caplog: Any) -> None:
    class Away(Sessions):
        async def load(self, user_id: str, id: str) -> Any:
            raise ConnectionError("a secret")

        def append(self, *_: Any) -> Any:
            raise lyss.ConflictError("another turn was stored", status_code=409)

    store = Away()
    with lyss.Gateway(config=config, session_store=store) as gw:
        with pytest.raises(lyss.InternalServerError) as raised:
            ask(gw, "x", model="simulated/echo", session_id="s")
        assert raised.value.code == "session_store_unavailable"
        assert "secret" not in str(raised.value) and "ConnectionError" in caplog.text
