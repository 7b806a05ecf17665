"""What goes wrong, and how it is told."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lyss
import pytest
from lyss import _errors

from conftest import USER


def told(gw: lyss.Gateway, content: str) -> lyss.LyssError:
    with pytest.raises(lyss.LyssError) as raised:
        gw.chat.completions.create(
            model="simulated/echo", messages=[{"role": "user", "content": content}]
        )
    return raised.value


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, lyss.BadRequestError),
        (404, lyss.NotFoundError),
        (422, lyss.UnprocessableEntityError),
        (429, lyss.RateLimitError),
        (500, lyss.InternalServerError),
    ],
)
def test_a_provider_s_status(gw: lyss.Gateway, status: int, cls: type) -> None:
    error = told(gw, f"[[status:{status}]]")
    assert type(error) is cls and isinstance(error, lyss.APIStatusError)
    assert error.request_id and error.meta.request_id == error.request_id


def test_an_error_tells_what_to_do(gw: lyss.Gateway) -> None:
    with pytest.raises(lyss.NotFoundError) as raised:
        gw.chat.completions.create(model="no/such", messages=USER)
    error = raised.value
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert error.type == "not_found_error" and error.should_retry is False
    assert "no/such" in error.message and error.message in str(error)
    assert error.request_id is not None and error.request_id in str(error)
    assert error.body["code"] == "model_not_found"


def test_without_a_key(gw: lyss.Gateway) -> None:
    with pytest.raises(lyss.AuthenticationError) as raised:
        gw.with_options(api_key="lyss_wrong").models.list()
    assert raised.value.code == "invalid_api_key"


def test_a_limit_says_how_long_to_wait(gw: lyss.Gateway) -> None:
    key = gw.admin.keys.create(name="k", user_id="u", rpm=1)
    caller = gw.with_options(api_key=key.key)
    caller.chat.completions.create(model="simulated/echo", messages=USER)
    with pytest.raises(lyss.RateLimitError) as raised:
        caller.chat.completions.create(model="simulated/echo", messages=USER)
    assert raised.value.retry_after is not None and 0 < raised.value.retry_after <= 60
    assert raised.value.should_retry is True


def test_a_stream_that_fails_before_it_begins(gw: lyss.Gateway) -> None:
    with pytest.raises(lyss.InternalServerError):
        gw.chat.completions.create(
            model="simulated/echo",
            messages=[{"role": "user", "content": "[[status:500]]"}],
            stream=True,
        )


def test_a_stream_that_breaks_off(gw: lyss.Gateway) -> None:
    messages = [{"role": "user", "content": "[[cut:2]] a b c d"}]
    stream = gw.chat.completions.create(model="simulated/echo", messages=messages, stream=True)
    seen = []
    with pytest.raises(lyss.InternalServerError) as raised:
        for chunk in stream:
            seen.append(chunk)
    assert len(seen) == 2
    assert raised.value.code == "upstream_incomplete" and raised.value.should_retry is False
    assert raised.value.request_id == stream.request_id
    assert list(stream) == []


def test_a_configuration_that_is_wrong(tmp_path: Any) -> None:
    with pytest.raises(lyss.ConfigError) as raised:
        lyss.Gateway(config={"rooting": {}, "data": {"dir": str(tmp_path)}})
    assert "did you mean routing?" in raised.value.message
    with pytest.raises(lyss.ConfigError, match="nothing-here.yaml"):
        lyss.Gateway(tmp_path / "nothing-here.yaml")
    with pytest.raises(TypeError, match="data.dir"):
        lyss.Gateway({}, data_dir=tmp_path)


def test_a_service_that_cannot_be_reached() -> None:
    with lyss.connect("http://127.0.0.1:1/v1", api_key="k") as gw:
        for stream in (False, True):
            with pytest.raises(lyss.APIConnectionError, match="cannot be reached") as raised:
                gw.chat.completions.create(model="m", messages=USER, stream=stream)
            assert raised.value.code == "service_unreachable" and raised.value.should_retry is True
        assert gw.ready().ready is False
        with pytest.raises(lyss.LyssError, match="where the engine runs"):
            gw.register_provider("mine", object())  # type: ignore[arg-type]
    with pytest.raises(lyss.ConfigError, match="address of a Lyss service"):
        lyss.connect("nonsense")


def test_what_cannot_be_sent(gw: lyss.Gateway) -> None:
    with pytest.raises(TypeError, match="object cannot be sent as JSON"):
        gw.chat.completions.create(model="m", messages=[{"role": "user", "content": object()}])
    with pytest.raises(lyss.BadRequestError) as raised:
        gw.chat.completions.create(model="m", messages=USER, temperature=float("nan"))
    assert raised.value.code == "invalid_json"
    with pytest.raises(lyss.BadRequestError):
        gw.chat.completions.create(model="m", messages=[{"role": "user", "content": "\ud800"}])
    with pytest.raises(ValueError, match="must not be empty"):
        gw.sessions.retrieve("")
    with pytest.raises(ValueError, match="header"):
        gw.models.list(extra_headers={"bad header": "x"})
    with pytest.raises(ValueError, match="seconds"):
        gw.models.list(timeout=-1)


@pytest.mark.parametrize("name", [name for name in _errors.__all__])
def test_every_exception_can_be_sent_to_another_process(name: str) -> None:
    cls = getattr(lyss, name)
    error = cls("what happened", status_code=418, code="c", request_id="r", body={"code": "c"})
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is cls and str(other) == str(error)
        assert (other.status_code, other.code, other.request_id) == (418, "c", "r")
        assert other.body == {"code": "c"} and other.retry_after is None


def test_names_are_those_of_the_openai_package() -> None:
    openai = pytest.importorskip("openai")
    for name in _errors.__all__:
        theirs = getattr(openai, name, None)
        if theirs is not None:
            mine = getattr(lyss, name)
            bases = {base.__name__ for base in theirs.__mro__} & set(_errors.__all__)
            assert bases <= {base.__name__ for base in mine.__mro__}, name
