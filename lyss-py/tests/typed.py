"""What a type checker makes of the package. Never run: `test_types` checks it."""

from __future__ import annotations

from typing import List, Optional

import lyss
from lyss.types import ChatCompletion, ChatCompletionChunk, Provider, Session
from typing_extensions import assert_type


class Own:
    async def chat(self, request: dict[str, object]) -> str:
        return ""


def sync(gw: lyss.Gateway) -> None:
    messages = [{"role": "user", "content": "hi"}]
    answer = gw.chat.completions.create(model="m", messages=messages, temperature=0.5)
    assert_type(answer, ChatCompletion)
    assert_type(answer.choices[0].message.content, Optional[str])
    assert_type(answer.meta.attempts, Optional[int])
    stream = gw.chat.completions.create(model="m", messages=messages, stream=True)
    assert_type(stream, lyss.Stream[ChatCompletionChunk])
    assert_type(next(stream).choices[0].delta.content, Optional[str])
    again = gw.chat.completions.create(model="m", messages=[*messages, answer.choices[0].message])
    assert_type(again, ChatCompletion)
    assert_type(gw.embeddings.create(model="m", input="x").data[0].embedding, List[float])
    assert_type(gw.sessions.list(), lyss.Page[Session])
    assert_type([session.id for session in gw.sessions.list()], List[str])
    assert_type(gw.with_options(user_id="u"), lyss.Gateway)
    provider: Provider = Own()
    gw.register_provider("own", provider)
    gw.chat.completions.create(model="m", messages=messages, temprature=1)  # type: ignore[call-overload]


async def asynchronous(gw: lyss.AsyncGateway) -> None:
    messages = [{"role": "user", "content": "hi"}]
    answer = await gw.chat.completions.create(model="m", messages=messages)
    assert_type(answer, ChatCompletion)
    stream = await gw.chat.completions.create(model="m", messages=messages, stream=True)
    assert_type(stream, lyss.AsyncStream[ChatCompletionChunk])
    async for chunk in stream:
        assert_type(chunk, ChatCompletionChunk)
    assert_type(await gw.sessions.list(), lyss.AsyncPage[Session])
    assert_type([session.id async for session in gw.sessions.list()], List[str])
    assert_type(gw.with_options(user_id="u"), lyss.AsyncGateway)
