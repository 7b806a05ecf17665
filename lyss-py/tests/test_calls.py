"""What a gateway can be asked, as a program asks it."""

from __future__ import annotations

import time
from typing import Any

import lyss
import pytest

from conftest import USER


def test_chat(gw: lyss.Gateway) -> None:
    answer = gw.chat.completions.create(model="simulated/echo", messages=USER, temperature=0)
    assert answer.choices[0].message.content == "hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == 5
    assert answer.meta.provider == "simulated" and answer.meta.attempts == 1
    assert answer.request_id == answer.meta.request_id


def test_the_message_of_an_answer_can_be_sent_again(gw: lyss.Gateway) -> None:
    first = gw.chat.completions.create(model="simulated/echo", messages=USER)
    messages: list[lyss.types.MessageParam] = [*USER, first.choices[0].message, *USER]
    second = gw.chat.completions.create(
        model="simulated/echo", messages=(message for message in messages)
    )
    assert second.choices[0].message.content == "hello there"


def test_stream(gw: lyss.Gateway) -> None:
    with gw.chat.completions.create(model="simulated/echo", messages=USER, stream=True) as stream:
        assert stream.meta.provider == "simulated"
        chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "hello there"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert list(stream) == []


def test_usage_of_a_stream(gw: lyss.Gateway) -> None:
    options = {"include_usage": True}
    chunks = list(
        gw.chat.completions.create(
            model="simulated/echo", messages=USER, stream=True, stream_options=options
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


def test_tools(gw: lyss.Gateway) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    choice = {"type": "function", "function": {"name": "add"}}
    answer = gw.chat.completions.create(
        model="simulated/echo", messages=USER, tools=[tool], tool_choice=choice
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None and calls[0].function.name == "add"


def test_embeddings(gw: lyss.Gateway) -> None:
    answer = gw.embeddings.create(model="simulated/embed", input=["a", "b"])
    assert [entry.index for entry in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 1


def test_models(gw: lyss.Gateway) -> None:
    assert "simulated/echo" in [model.id for model in gw.models.list()]
    assert gw.models.retrieve("simulated/echo").provider == "simulated"


def test_a_conversation(gw: lyss.Gateway) -> None:
    me = gw.with_options(user_id="u1")
    first = me.chat.completions.create(model="simulated/echo", messages=USER, session_id="new")
    id = first.meta.session_id
    assert id is not None
    me.chat.completions.create(model="simulated/echo", messages=USER, session_id=id)
    session = me.sessions.retrieve(id)
    assert (session.id, session.user_id, session.message_count) == (id, "u1", 4)
    assert [entry.message.role for entry in me.sessions.messages(id)] == ["user", "assistant"] * 2
    assert [entry.seq for entry in me.sessions.messages(id, limit=1)] == [1, 2, 3, 4]
    with pytest.raises(lyss.NotFoundError) as raised:
        gw.sessions.retrieve(id, user_id="u2")
    assert raised.value.code == "session_not_found"
    me.sessions.delete(id)
    assert list(me.sessions.list()) == []


def test_sessions_are_listed_over_pages(gw: lyss.Gateway) -> None:
    for name in ("a", "b/c", "ü"):
        created = gw.sessions.create(name, user_id="u", metadata={"name": name})
        assert created.metadata == {"name": name}
    page = gw.sessions.list(user_id="u", limit=2)
    assert len(page) == len(page.data) == 2 and page.has_next_page()
    assert {session.id for session in page} == {"a", "b/c", "ü"}
    assert not page.get_next_page().has_next_page()
    assert gw.sessions.retrieve("b/c", user_id="u").id == "b/c"


def test_tokens(gw: lyss.Gateway) -> None:
    counted = gw.tokens.count(model="gpt-4o-mini", messages=USER, extra_body={"model": "simulated/echo"})
    assert counted.input_tokens > 2 and len(counted.messages) == 1


def test_the_request_log(gw: lyss.Gateway) -> None:
    answer = gw.chat.completions.create(
        model="simulated/echo", messages=USER, user_id="u", extra_headers={"x-client-request-id": "mine"}
    )
    assert answer.request_id is not None
    row = eventually(lambda: gw.requests.retrieve(answer.request_id or ""))
    assert (row.status, row.user_id, row.client_request_id) == ("success", "u", "mine")
    assert [row.request_id for row in gw.requests.list(user_id="u")] == [answer.request_id]
    assert list(gw.requests.list(user_id="v")) == []
    assert row.request_id == answer.request_id and row.decision is not None
    totals = gw.usage(by=["model", "user"], since="2020-01-01")
    assert [(total.user, total.requests) for total in totals] == [("u", 1)]
    assert [total.requests for total in gw.usage(user_id="v")] == [0]


def eventually(call: Any) -> Any:
    """Rows are written in batches, behind the answers."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return call()
        except lyss.NotFoundError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_keys(gw: lyss.Gateway) -> None:
    key = gw.admin.keys.create(name="k", user_id="bob")
    assert key.key is not None and key.key.startswith("lyss_")
    bob = gw.with_options(api_key=key.key)
    session = bob.sessions.create()
    assert session.user_id == "bob"
    with pytest.raises(lyss.PermissionDeniedError) as raised:
        bob.admin.keys.list()
    assert raised.value.code == "admin_required"
    assert [each.id for each in gw.admin.keys.list()] == [key.id]
    gw.admin.keys.update(key.id, name="other")
    assert gw.admin.keys.retrieve(key.id).name == "other"
    fresh = gw.admin.keys.rotate(key.id, grace_seconds=0)
    assert fresh.key != key.key
    gw.admin.keys.delete(key.id)
    with pytest.raises(lyss.AuthenticationError):
        gw.with_options(api_key=fresh.key).models.list()


def test_other_admin_resources(gw: lyss.Gateway) -> None:
    rule = gw.admin.routing_rules.create(
        model_name="m", provider_id="simulated", upstream_model="echo"
    )
    assert rule.id is not None
    answer = gw.chat.completions.create(model="m", messages=USER)
    assert answer.meta.upstream_model == "echo"
    gw.admin.routing_rules.delete(rule.id)
    budget = gw.admin.budgets.create(user="u", amount="1", currency="USD", period="day")
    assert budget.id in [each.id for each in gw.admin.budgets.list()]
    gw.admin.providers.create(id="more", kind="simulated")
    assert gw.admin.providers.retrieve("more").source == "database"
    assert gw.admin.prices.list().data == []


def test_health(gw: lyss.Gateway) -> None:
    assert gw.health().status.database is True
    assert gw.ready().ready is True
    assert "gateway_in_flight_requests" in gw.metrics()


def test_the_raw_way(gw: lyss.Gateway) -> None:
    listed = gw.request("GET", "/v1/models")
    assert listed.status_code == 200 and listed.json()["object"] == "list"
    refused = gw.request("POST", "/v1/chat/completions", body="{")
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_json"
    with pytest.raises(lyss.BadRequestError):
        refused.raise_for_status()
    body = {"model": "simulated/echo", "messages": USER, "stream": True}
    streamed = gw.request("POST", "/v1/chat/completions", body=body)
    assert streamed.is_stream and streamed.content == b""
    assert list(streamed.iter_events())[-1] == b"data: [DONE]\n\n"
    with pytest.raises(ValueError, match="must begin with"):
        gw.request("GET", "v1/models")


def test_an_idempotency_key(gw: lyss.Gateway) -> None:
    call: Any = {"model": "simulated/echo", "messages": USER, "idempotency_key": "once"}
    first = gw.chat.completions.create(**call)
    again = gw.chat.completions.create(**call)
    assert (first.meta.replayed, again.meta.replayed) == (False, True)
    assert again == first
    with pytest.raises(lyss.UnprocessableEntityError) as raised:
        gw.chat.completions.create(**{**call, "messages": [*USER, *USER]})
    assert raised.value.code == "idempotency_key_reused"


def test_whom_a_call_is_made_for(gw: lyss.Gateway) -> None:
    me = gw.with_options(user_id="me", extra_headers={"x-client-request-id": "1"})
    assert me.sessions.create().user_id == "me"
    assert me.sessions.create(user_id="you").user_id == "you"
    assert me.with_options(user_id=None).sessions.create().user_id == "local"


def test_a_gateway_without_a_configuration(tmp_path: Any) -> None:
    with lyss.Gateway(data_dir=tmp_path) as gateway:
        assert gateway.models.retrieve("simulated/echo").provider == "simulated"
        assert any(tmp_path.iterdir())


def test_several_gateways_live_side_by_side(tmp_path: Any) -> None:
    names = ("one", "two")
    gateways = [lyss.Gateway(data_dir=tmp_path / name) for name in names]
    for gateway, name in zip(gateways, names):
        gateway.sessions.create(name)
    for gateway, name in zip(gateways, names):
        assert [session.id for session in gateway.sessions.list()] == [name]
        gateway.close()


def test_a_closed_gateway(gw: lyss.Gateway) -> None:
    copy = gw.with_options(user_id="u")
    gw.close()
    gw.close()
    assert copy.is_closed and "closed" in repr(gw)
    with pytest.raises(lyss.GatewayClosedError):
        copy.models.list()


def test_a_file_is_followed(tmp_path: Any) -> None:
    file = tmp_path / "gateway.yaml"
    text = f"data: {{dir: {tmp_path}}}\nproviders: {{simulated: {{models: {{one: echo}}}}}}\n"
    file.write_text(text)
    with lyss.Gateway(file) as gateway:
        assert gateway.models.retrieve("one").provider == "simulated"
        file.write_text(text.replace("one", "two"))
        assert eventually(lambda: gateway.models.retrieve("two")).provider == "simulated"


def test_what_the_engine_warns_of_is_logged(tmp_path: Any, caplog: Any) -> None:
    config = {
        "data": {"dir": str(tmp_path)},
        "providers": {"simulated": {}},
        "budgets": [{"session": "*", "amount": "0.50", "period": "total", "currency": "EUR"}],
    }
    with lyss.Gateway(config=config):
        deadline = time.monotonic() + 5
        while not caplog.records:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert {record.name for record in caplog.records} == {"lyss"}
    assert all(record.levelname in ("WARNING", "ERROR") for record in caplog.records)
