"""One question, one answer. Nothing to start first: the gateway runs inside this program.

    pip install ./lyss-py
    python examples/python/quick_start.py
"""

from pathlib import Path

import lyss

with lyss.Gateway(Path(__file__).parents[1] / "offline.yaml") as gw:
    answer = gw.chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": "Hello, Lyss!"}]
    )
    print(answer.choices[0].message.content)
    print(f"{answer.usage.total_tokens} tokens, answered by {answer.meta.provider}")
