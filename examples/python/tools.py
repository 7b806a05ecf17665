"""The model asks for a tool; its result goes back in the next request.

    pip install ./lyss-py
    python examples/python/tools.py
"""

import json
from pathlib import Path

import lyss

weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

with lyss.Gateway(Path(__file__).parents[1] / "offline.yaml") as gw:
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = gw.chat.completions.create(
        model="assistant",
        messages=messages,
        tools=[weather],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    message = answer.choices[0].message
    messages.append(message.to_dict())
    for call in message.tool_calls:
        arguments = json.loads(call.function.arguments)
        print(f"asked for {call.function.name}({', '.join(arguments)})")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"})
    answer = gw.chat.completions.create(model="assistant", messages=messages, tools=[weather])
    print(answer.choices[0].message.content)
