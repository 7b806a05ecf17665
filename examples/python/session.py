"""A conversation: only what is new is sent, the gateway keeps the rest.

    pip install ./lyss-py
    python examples/python/session.py
"""

import uuid
from pathlib import Path

import lyss

session = f"example-{uuid.uuid4()}"

with lyss.Gateway(Path(__file__).parents[1] / "offline.yaml") as gw:
    for text in ["My name is Ada.", "What is my name?"]:
        answer = gw.chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": text}],
            session_id=session,
            user_id="ada",
        )
        print(f"{text} -> a prompt of {answer.usage.prompt_tokens} tokens")
    kept = gw.sessions.retrieve(session, user_id="ada")
    print(f"{kept.message_count} messages are kept")
    gw.sessions.delete(session, user_id="ada")
