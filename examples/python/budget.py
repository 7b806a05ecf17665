"""What the session may cost bounds its answers, and then stops them.

    pip install ./lyss-py
    python examples/python/budget.py
"""

import uuid
from pathlib import Path

import lyss

session = f"example-{uuid.uuid4()}"

with lyss.Gateway(Path(__file__).parents[1] / "offline.yaml") as gw:
    for turn in range(1, 20):
        try:
            answer = gw.chat.completions.create(
                model="assistant",
                messages=[{"role": "user", "content": f"Turn {turn}: tell me more."}],
                session_id=session,
            )
        except lyss.BudgetExceededError as error:
            print(f"turn {turn}: {error.code}")
            print(error.message)
            break
        print(f"turn {turn}: at most {answer.meta.max_tokens_clamped} tokens were left for the answer")
