"""Conversations kept by the gateway."""

import uuid

import openai
import pytest

import conftest

pytestmark = pytest.mark.lyss


def say(client, model, session, text, **more):
    extra = {"session_id": session}
    return client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": text}], extra_body=extra, **more
    )


def sent_messages(body):
    messages = body.get("messages") or body["input"]["messages"]
    return [(message["role"], message["content"]) for message in messages]


def test_second_turn_sees_the_first(client, upstream, marker, model):
    session = f"s-{uuid.uuid4().hex}"
    say(client, model, session, f"first {marker}")
    say(client, model, session, f"second {marker}")
    assert sent_messages(upstream.bodies(marker)[-1]) == [
        ("user", f"first {marker}"),
        ("assistant", f"echo: first {marker}"),
        ("user", f"second {marker}"),
    ]


def test_a_streamed_turn_is_remembered(client, upstream, marker, model):
    session = f"s-{uuid.uuid4().hex}"
    raw = say(client, model, session, f"first {marker}", stream=True)
    for _ in raw.parse():
        pass
    say(client, model, session, f"second {marker}")
    assert sent_messages(upstream.bodies(marker)[-1])[1] == ("assistant", f"echo: first {marker}")


def test_new_session_is_named_in_the_header(client, upstream, marker, model):
    session = say(client, model, "new", f"first {marker}").headers["x-lyss-session-id"]
    assert session and session != "new"
    say(client, model, session, f"second {marker}")
    assert len(sent_messages(upstream.bodies(marker)[-1])) == 3


def test_a_failed_turn_is_not_remembered(client, upstream, marker, model):
    session = f"s-{uuid.uuid4().hex}"
    say(client, model, session, f"first {marker}")
    with pytest.raises(openai.BadRequestError):
        say(client, model, session, f"[[status:400]] {marker}")
    say(client, model, session, f"third {marker}")
    assert [text for _, text in sent_messages(upstream.bodies(marker)[-1])] == [
        f"first {marker}",
        f"echo: first {marker}",
        f"third {marker}",
    ]


def test_session_endpoints(client, http, model):
    session = f"s-{uuid.uuid4().hex}"
    say(client, model, session, "hello")
    seen = http.get(f"/sessions/{session}").raise_for_status().json()
    assert (seen["id"], seen["message_count"]) == (session, 2)
    assert http.delete(f"/sessions/{session}").status_code == 204
    assert http.get(f"/sessions/{session}").status_code == 404


def test_without_a_session_nothing_is_remembered(client, upstream, marker):
    for text in (f"first {marker}", f"second {marker}"):
        client.chat.completions.create(model=conftest.OPENAI_MODEL, messages=[{"role": "user", "content": text}])
    assert sent_messages(upstream.bodies(marker)[-1]) == [("user", f"second {marker}")]
