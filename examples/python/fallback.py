"""The first provider fails, the second answers; the log says what was tried and why.

    pip install ./lyss-py
    python examples/python/fallback.py
"""

from pathlib import Path

import lyss

with lyss.Gateway(Path(__file__).parents[1] / "offline.yaml") as gw:
    answer = gw.chat.completions.create(
        model="steady", messages=[{"role": "user", "content": "Are you there?"}]
    )
    print(f"{answer.meta.provider} answered at attempt {answer.meta.attempts}")
    for attempt in gw.requests.retrieve(answer.meta.request_id).decision.attempts:
        print(f"{attempt.provider_id}: {attempt.outcome}")
