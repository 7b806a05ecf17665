"""A conversation of 200 turns with tools, of which the client sends only the new messages.

The gateway keeps the conversation and compresses it as it grows: what each turn costs stays bounded. Run it against a
gateway started with `lyss` alone (no account needed):

    pip install openai
    python examples/python/long_conversation.py

LYSS_URL (http://127.0.0.1:8000/v1), LYSS_API_KEY and LYSS_MODEL (simulated/echo) name another gateway, key or model.
"""

import json
import os
import uuid

import openai

TURNS = int(os.environ.get("LYSS_TURNS", "200"))
MODEL = os.environ.get("LYSS_MODEL", "simulated/echo")

client = openai.OpenAI(
    base_url=os.environ.get("LYSS_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("LYSS_API_KEY", "none"),
)
session = f"example-{uuid.uuid4()}"

weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def say(*messages, **options):
    """One turn: only what is new is sent."""
    return client.chat.completions.create(
        model=MODEL, messages=list(messages), extra_body={"session_id": session}, **options
    )


prompts = []  # prompt tokens of every turn
everything = 0  # characters of the whole conversation

say({"role": "system", "content": "You are a travel guide."}, {"role": "user", "content": "Hello!"})
for turn in range(1, TURNS + 1):
    question = f"Turn {turn}: what should I see in city number {turn}, and why? " + "Tell me more. " * 5
    asks_tool = turn % 10 == 0
    options = {"tools": [weather]}
    if asks_tool:
        options["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
    answer = say({"role": "user", "content": question}, **options)
    message = answer.choices[0].message
    everything += len(question) + len(message.content or "")
    for call in message.tool_calls or []:
        result = json.dumps({"call": call.function.name, "degrees": turn % 30})
        answer = say({"role": "tool", "tool_call_id": call.id, "content": result}, tools=[weather])
        everything += len(result)
    prompts.append(answer.usage.prompt_tokens)
    if turn in (1, 10, 25, 50, 100, 150, 200):
        print(f"turn {turn:3}: prompt of {prompts[-1]:5} tokens; the whole conversation is about {everything // 4:6}")

print(
    f"{TURNS} turns: prompts of at most {max(prompts)} tokens, {sum(prompts)} in all; "
    f"sending everything each time would be about {sum(everything // 4 * turn // TURNS for turn in range(TURNS))}"
)
client.delete(f"/sessions/{session}", cast_to=object)
