"""The official SDK, and what is built on it, in process: no socket."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, Iterator

import lyss
import pytest

from conftest import USER, Upstream

openai = pytest.importorskip("openai")

URL = "http://lyss/v1"


@pytest.fixture
def client(gw: lyss.Gateway) -> Iterator[Any]:
    with gw.httpx_client() as transport:
        yield openai.OpenAI(api_key="-", base_url=URL, http_client=transport)


def test_openai(client: Any) -> None:
    answer = client.chat.completions.create(model="simulated/echo", messages=USER)
    assert answer.choices[0].message.content == "hello there" and answer._request_id
    raw = client.chat.completions.with_raw_response.create(model="simulated/echo", messages=USER)
    assert raw.headers["x-lyss-provider"] == "simulated"
    assert [model.id for model in client.models.list()] == ["simulated/echo", "simulated/embed"]
    assert client.models.retrieve("simulated/echo").id == "simulated/echo"
    vectors = client.embeddings.create(model="simulated/embed", input=["a", "b"])
    assert len(vectors.data) == 2 and isinstance(vectors.data[0].embedding[0], float)


def test_openai_stream(client: Any) -> None:
    chunks = client.chat.completions.create(model="simulated/echo", messages=USER, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello there"
    with client.chat.completions.stream(model="simulated/echo", messages=USER) as stream:
        assert stream.get_final_completion().choices[0].message.content == "hello there"


def test_openai_parses_into_models(client: Any) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):
        name: str
        age: int

    answer = client.chat.completions.parse(
        model="simulated/echo", messages=USER, response_format=Person
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_openai_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no/such", messages=USER)
    assert missing.value.code == "model_not_found" and missing.value.request_id
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="simulated/echo", messages=[])
    messages = [{"role": "user", "content": "[[cut:1]] a b"}]
    stream = client.chat.completions.create(model="simulated/echo", messages=messages, stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


def test_openai_as_the_holder_of_a_key(gw: lyss.Gateway) -> None:
    key = gw.admin.keys.create(name="k", user_id="bob").key
    bob = gw.with_options(api_key=key)
    client = openai.OpenAI(api_key="-", base_url=URL, http_client=bob.httpx_client())
    with pytest.raises(openai.PermissionDeniedError):
        client.get("/admin/keys", cast_to=object)
    answer = client.chat.completions.create(
        model="simulated/echo", messages=USER, extra_body={"session_id": "s"}
    )
    assert answer.choices[0].message.content == "hello there"
    assert gw.sessions.retrieve("s", user_id="bob").message_count == 2


def test_openai_stream_that_is_left_ends_upstream(
    slow_config: dict[str, Any], upstream: Upstream
) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        client = openai.OpenAI(api_key="-", base_url=URL, http_client=gw.httpx_client())
        with client.chat.completions.create(model="slow/m", messages=USER, stream=True) as stream:
            next(stream)
        assert upstream.left.acquire(timeout=2)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2, max_retries=0).chat.completions.create(
                model="slow/m", messages=USER
            )
        assert upstream.left.acquire(timeout=2)


async def test_async_openai(gw: lyss.Gateway) -> None:
    async with gw.async_httpx_client() as transport:
        client = openai.AsyncOpenAI(api_key="-", base_url=URL, http_client=transport)
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="simulated/echo", messages=USER) for _ in range(20))
        )
        assert {answer.choices[0].message.content for answer in answers} == {"hello there"}
        stream = await client.chat.completions.create(
            model="simulated/echo", messages=USER, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "hello there"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="no/such", messages=USER)


async def test_async_openai_that_is_left_ends_upstream(
    slow_config: dict[str, Any], upstream: Upstream
) -> None:
    async with lyss.AsyncGateway(config=slow_config) as gw:
        client = openai.AsyncOpenAI(
            api_key="-", base_url=URL, http_client=gw.async_httpx_client(), max_retries=0
        )
        stream = await client.chat.completions.create(model="slow/m", messages=USER, stream=True)
        await anext(stream.__aiter__())
        await stream.close()
        assert await asyncio.to_thread(upstream.left.acquire, timeout=2)
        call = asyncio.create_task(client.chat.completions.create(model="slow/m", messages=USER))
        assert await asyncio.to_thread(upstream.asked.acquire, timeout=2)
        assert await asyncio.to_thread(upstream.asked.acquire, timeout=2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(upstream.left.acquire, timeout=2)


def test_a_client_outlives_the_name_of_its_gateway(config: dict[str, Any]) -> None:
    client = openai.OpenAI(
        api_key="-", base_url=URL, http_client=lyss.Gateway(config=config).httpx_client()
    )
    gc.collect()
    stream = client.chat.completions.create(model="simulated/echo", messages=USER, stream=True)
    assert len(list(stream)) == 4


async def test_langchain(gw: lyss.Gateway) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        model="simulated/echo",
        api_key="-",
        base_url=URL,
        http_client=gw.httpx_client(),
        http_async_client=gw.async_httpx_client(),
    )
    assert model.invoke("hello there").content == "hello there"
    assert "".join(chunk.content for chunk in model.stream("hello there")) == "hello there"
    assert (await model.ainvoke("hello there")).content == "hello there"
    text = "".join([chunk.content async for chunk in model.astream("hello there")])
    assert text == "hello there"
    embeddings = langchain.OpenAIEmbeddings(
        model="simulated/embed",
        api_key="-",
        base_url=URL,
        http_client=gw.httpx_client(),
        check_embedding_ctx_length=False,
    )
    assert len(embeddings.embed_query("a")) > 1


async def test_instructor(gw: lyss.Gateway) -> None:
    instructor = pytest.importorskip("instructor")
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):
        name: str
        age: int

    client = instructor.from_openai(
        openai.OpenAI(api_key="-", base_url=URL, http_client=gw.httpx_client()),
        mode=instructor.Mode.JSON_SCHEMA,
    )
    made = client.chat.completions.create(
        model="simulated/echo", messages=USER, response_model=Person
    )
    assert isinstance(made, Person)
    client = instructor.from_openai(
        openai.AsyncOpenAI(api_key="-", base_url=URL, http_client=gw.async_httpx_client())
    )
    made = await client.chat.completions.create(
        model="simulated/echo", messages=USER, response_model=Person
    )
    assert isinstance(made, Person)


async def test_agents(gw: lyss.Gateway) -> None:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(
        api_key="-", base_url=URL, http_client=gw.async_httpx_client()
    )
    model = agents.OpenAIChatCompletionsModel(model="simulated/echo", openai_client=client)
    agent = agents.Agent(name="echo", instructions="repeat", model=model)
    assert (await agents.Runner.run(agent, "hello there")).final_output == "hello there"
    streamed = agents.Runner.run_streamed(agent, "hello there")
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "hello there"
