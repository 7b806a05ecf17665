"""Tools, parallel calls, and the turn that answers them."""

import json

import conftest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(client, model, text, **more):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], tools=[WEATHER], **more
    )


def test_parallel_calls(client, model):
    choice = call(client, model, "[[tools:2]] weather?").choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [tool.function.name for tool in calls] == ["get_weather"] * 2
    assert [json.loads(tool.function.arguments) for tool in calls] == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert len({tool.id for tool in calls}) == 2


def test_parallel_calls_can_be_refused(client, model):
    assert len(call(client, model, "[[tools:2]]", parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_required(client, model):
    """DashScope knows no `required`: one tool is named instead."""
    assert call(client, model, "hi", tool_choice="required").choices[0].message.tool_calls


def test_streamed_calls(client, model):
    chunks = call(client, model, "[[tools:2]] weather?", stream=True)
    names, ids, arguments, finish = {}, {}, {}, None
    for chunk in chunks:
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for tool in choice.delta.tool_calls or []:
            if tool.id:
                assert tool.index not in ids, "an id comes once"
                ids[tool.index] = tool.id
            if tool.function.name:
                names[tool.index] = tool.function.name
            arguments[tool.index] = arguments.get(tool.index, "") + (tool.function.arguments or "")
    assert finish == "tool_calls"
    assert names == {0: "get_weather", 1: "get_weather"}
    assert len(set(ids.values())) == 2
    assert {index: json.loads(text) for index, text in arguments.items()} == {0: {"city": "Oslo"}, 1: {"city": "Bergen"}}


def test_stream_helper_accumulates_calls(client, model):
    messages = [{"role": "user", "content": "[[tools:2]]"}]
    with client.chat.completions.stream(model=model, messages=messages, tools=[WEATHER]) as events:
        calls = events.get_final_completion().choices[0].message.tool_calls
    assert [json.loads(tool.function.arguments)["city"] for tool in calls] == ["Oslo", "Bergen"]


def test_answering_turn(client, upstream, marker, model):
    first = call(client, model, f"[[tools:2]] {marker}").choices[0].message
    messages = [{"role": "user", "content": f"weather {marker}"}, first]
    messages += [
        {"role": "tool", "tool_call_id": tool.id, "content": json.dumps({"degrees": 3})} for tool in first.tool_calls
    ]
    answer = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == f"echo: weather {marker}"
    body = upstream.bodies(marker)[-1]
    sent = body.get("messages") or body["input"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == first.tool_calls[0].function.arguments


def test_custom_schema_key_order_is_kept(http, upstream, marker):
    schema = '{"type":"object","properties":{"zeta":{"type":"string"},"alpha":{"type":"string"}}}'
    body = (
        f'{{"model":"{conftest.OPENAI_MODEL}","messages":[{{"role":"user","content":"{marker}"}}],'
        f'"tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]}}'
    )
    http.post("/chat/completions", content=body, headers={"content-type": "application/json"}).raise_for_status()
    assert schema in upstream.requests(marker)[0]["body"]
