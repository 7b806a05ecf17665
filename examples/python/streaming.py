"""The answer piece by piece, as it is written; the last chunk has the usage.

    pip install ./lyss-py
    python examples/python/streaming.py
"""

import asyncio
from pathlib import Path

import lyss


async def main() -> None:
    async with lyss.AsyncGateway(Path(__file__).parents[1] / "offline.yaml") as gw:
        stream = await gw.chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": "one two three"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
            if chunk.usage:
                print(f"\n{chunk.usage.total_tokens} tokens")


asyncio.run(main())
