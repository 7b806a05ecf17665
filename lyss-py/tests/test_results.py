"""Results: what can be done with them."""

from __future__ import annotations

import copy
import json
import pickle

import lyss
import pytest
from lyss.types import ChatCompletion, Model

from conftest import USER

TEXT = b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"hi","new":[{"x":1}]}}],"more":{"a":{"b":2}}}'


def test_members_are_attributes() -> None:
    answer = ChatCompletion(TEXT)
    assert answer.choices[0].message.content == "hi"
    assert answer.more.a.b == 2
    assert answer.choices[0].message.new[0].x == 1
    assert answer.usage is None and answer.choices[0].message.tool_calls is None
    with pytest.raises(AttributeError, match="ChatCompletion has no 'nothing'; it has: choices, id, more"):
        answer.nothing
    assert "more" in dir(answer) and "usage" in dir(answer)


def test_json_is_read_when_it_is_looked_into() -> None:
    answer = ChatCompletion(b"not JSON")
    with pytest.raises(ValueError):
        answer.id


def test_a_result_is_read_only_and_its_dict_is_not() -> None:
    answer = ChatCompletion(TEXT)
    with pytest.raises(AttributeError, match="read-only"):
        answer.id = "2"
    mine = answer.to_dict()
    assert mine == json.loads(TEXT) == answer.model_dump() == json.loads(answer.model_dump_json())
    mine["choices"].clear()
    assert len(answer.choices) == 1 and answer.choices[0] is answer.choices[0]
    assert json.loads(answer.to_json(indent=2)) == json.loads(TEXT)


def test_results_are_compared_and_shown() -> None:
    assert ChatCompletion(TEXT) == ChatCompletion(json.loads(TEXT))
    assert ChatCompletion(TEXT) != Model(TEXT)
    shown = repr(ChatCompletion(TEXT))
    assert shown.startswith("ChatCompletion(id='1', choices=[Choice(") and "content='hi'" in shown


def test_a_result_can_be_sent_to_another_process(gw: lyss.Gateway) -> None:
    answer = gw.chat.completions.create(model="simulated/echo", messages=USER)
    chunk = next(gw.chat.completions.create(model="simulated/echo", messages=USER, stream=True))
    for each in (answer, chunk, answer.choices[0], gw.sessions.create()):
        for other in (pickle.loads(pickle.dumps(each)), copy.deepcopy(each)):
            assert other == each and type(other) is type(each)
            assert other.meta == each.meta and other.request_id == each.request_id
    with pytest.raises(TypeError, match="open it in the process that uses it"):
        pickle.dumps(gw)
