"""The same gateway for asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import lyss
import pytest

from conftest import USER, Upstream


async def test_calls(config: dict[str, Any]) -> None:
    async with lyss.AsyncGateway(config=config) as gw:
        answer = await gw.chat.completions.create(model="simulated/echo", messages=USER)
        assert answer.choices[0].message.content == "hello there"
        vectors = await gw.embeddings.create(model="simulated/embed", input="x")
        assert len(vectors.data) == 1
        assert "simulated/echo" in [model.id async for model in gw.models.list()]
        assert (await gw.models.list()).data[0].object == "model"
        me = gw.with_options(user_id="me")
        for name in "abc":
            await me.sessions.create(name)
        page = await me.sessions.list(limit=2)
        assert len(page) == 2 and {session.id async for session in page} == set("abc")
        await me.sessions.delete("a")
        assert (await gw.health()).healthy is True
        assert (await gw.ready()).ready is True
        assert (await gw.request("GET", "/v1/models")).status_code == 200
        assert {total.model for total in await gw.usage(by="model")} <= {
            "simulated/echo",
            "simulated/embed",
        }
        with pytest.raises(lyss.NotFoundError):
            await me.sessions.retrieve("a")


async def test_stream(config: dict[str, Any]) -> None:
    async with await lyss.AsyncGateway.open(config) as gw:
        async with await gw.chat.completions.create(
            model="simulated/echo", messages=USER, stream=True
        ) as stream:
            chunks = [chunk async for chunk in stream]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == "hello there" and stream.meta.provider == "simulated"
        assert [chunk async for chunk in stream] == []
        messages = [{"role": "user", "content": "[[cut:1]] a b"}]
        broken = await gw.chat.completions.create(
            model="simulated/echo", messages=messages, stream=True
        )
        with pytest.raises(lyss.InternalServerError) as raised:
            async for _ in broken:
                pass
        assert raised.value.code == "upstream_incomplete"


async def test_many_at_once(config: dict[str, Any]) -> None:
    config["providers"]["simulated"]["options"]["latency_ms"] = 300
    async with lyss.AsyncGateway(config=config) as gw:
        before = threading.active_count()
        start = time.monotonic()
        calls = (
            gw.chat.completions.create(
                model="simulated/echo", messages=[{"role": "user", "content": str(number)}]
            )
            for number in range(100)
        )
        answers = await asyncio.gather(*calls)
        assert time.monotonic() - start < 5
        assert [answer.choices[0].message.content for answer in answers] == [
            str(number) for number in range(100)
        ]
        assert threading.active_count() == before, "no thread a call"


def test_one_gateway_on_many_loops(config: dict[str, Any]) -> None:
    gw = lyss.AsyncGateway(config=config)

    async def chat() -> str:
        answer = await gw.chat.completions.create(model="simulated/echo", messages=USER)
        stream = await gw.chat.completions.create(model="simulated/echo", messages=USER, stream=True)
        return f"{answer.choices[0].message.content} {len([chunk async for chunk in stream])}"

    assert {asyncio.run(chat()) for _ in range(5)} == {"hello there 4"}
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(asyncio.run(chat()))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["hello there 4"] * 5
    asyncio.run(gw.close())


async def test_a_cancelled_call_ends_upstream(
    slow_config: dict[str, Any], upstream: Upstream
) -> None:
    async with lyss.AsyncGateway(config=slow_config) as gw:
        call = asyncio.create_task(
            gw.chat.completions.create(model="slow/m", messages=USER)
        )
        await waited(upstream.asked)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await waited(upstream.left)


async def test_a_cancelled_stream_goes_on_or_ends(
    slow_config: dict[str, Any], upstream: Upstream
) -> None:
    async with lyss.AsyncGateway(config=slow_config) as gw:
        stream = await gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
        assert (await anext(stream)).choices[0].delta.content == "a"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.1)
        assert not upstream.left.acquire(blocking=False)
        await stream.close()
        await waited(upstream.left)
        assert [chunk async for chunk in stream] == []


async def test_a_stream_that_is_forgotten_ends(
    slow_config: dict[str, Any], upstream: Upstream
) -> None:
    async with lyss.AsyncGateway(config=slow_config) as gw:
        stream = await gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
        await anext(stream)
        del stream
        gc.collect()
        await waited(upstream.left)


async def test_timeouts(slow_config: dict[str, Any], upstream: Upstream) -> None:
    async with lyss.AsyncGateway(config=slow_config, timeout=0.2) as gw:
        with pytest.raises(lyss.APITimeoutError, match="0.2 s"):
            await gw.chat.completions.create(model="slow/m", messages=USER)
        await waited(upstream.left)
        stream = await gw.chat.completions.create(
            model="slow/m", messages=USER, stream=True, timeout=0.3
        )
        await anext(stream)
        with pytest.raises(lyss.APITimeoutError, match="0.3 s"):
            await anext(stream)
        await stream.close()
        await waited(upstream.left)


async def waited(semaphore: threading.Semaphore) -> None:
    acquired = await asyncio.to_thread(semaphore.acquire, timeout=5)
    assert acquired, "the provider was not told within 5 s"
