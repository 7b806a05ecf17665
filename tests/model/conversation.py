"""Thirty streamed turns with a real language model behind the gateway, which also writes the session's summaries.

What must hold: every turn is answered and stored; what the model is sent stays within the session's bound however long
the conversation gets; the summaries are calls of their own in the log; and every token that the model server says it
worked for is in the gateway's log, no more and no less.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import openai

TURNS = 30
MODEL = "smollm2-135m"
MAX_TOKENS = 600
TOPICS = ["the sea", "bread", "mountains", "trains", "winter", "music", "stars", "tea", "rivers", "gardens"]


def get(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return json.load(answer)


def start(binary, upstream, directory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "server": {"http": {"addr": f"127.0.0.1:{port}"}},
        "data": {"dir": str(directory / "data")},
        "monitoring": {"prometheus": {"enabled": False}, "log": {"level": "warn"}},
        "providers": {"local": {"kind": "openai", "api_key": "none", "base_url": f"{upstream}/v1", "timeout": "120s"}},
        "routing": {"default_provider": "local", "health_check": {"enabled": False}},
        "session": {
            "max_tokens": MAX_TOKENS,
            "compression_threshold": 400,
            "keep_recent": 4,
            "summary_model": MODEL,
        },
    }
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML.
    log = open(directory / "log", "w")
    process = subprocess.Popen([binary, "serve", "--config", path], stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            get(f"{base}/ready")
            return process, base
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise SystemExit("the gateway does not start:\n" + (directory / "log").read_text())


def converse(client):
    """Holds the conversation, each turn streamed to its end."""
    for turn in range(TURNS):
        topic = TOPICS[turn % len(TOPICS)]
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Turn {turn + 1}. Tell me one short thing about {topic}."}],
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"session_id": "talk", "user_id": "reader"},
        )
        text, usage, finish = "", None, None
        for chunk in stream:
            if chunk.usage:
                usage = chunk.usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        assert finish in ("stop", "length"), finish
        assert usage, "usage was asked for"
        print(f"turn {turn + 1:2}: {usage.prompt_tokens:4} tokens in, {usage.completion_tokens:3} out  {text.strip()[:60]!r}")


def main(binary, upstream):
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        process, base = start(binary, upstream, Path(directory))
        try:
            client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", timeout=180, max_retries=0)
            converse(client)
            # The last turn may have begun a compression.
            for _ in range(600):
                session = get(f"{base}/v1/sessions/talk?user_id=reader")
                if session["status"] == "active":
                    break
                time.sleep(0.1)
            time.sleep(1)
            stored = get(f"{base}/v1/sessions/talk/messages?user_id=reader&limit=1000")["data"]
            rows = get(f"{base}/v1/requests?user_id=reader&limit=1000")["data"]
            ledger = get(f"{upstream}/ledger")
        finally:
            process.terminate()
            process.wait(timeout=60)

    assert session["message_count"] == 2 * TURNS, session
    assert len(stored) == 2 * TURNS and [m["seq"] for m in stored] == list(range(1, 2 * TURNS + 1))
    compressed = sum(message["compressed"] for message in stored)
    assert compressed > TURNS, f"only {compressed} of {len(stored)} messages were compressed"

    purposes = Counter(row["purpose"] for row in rows)
    assert purposes["chat"] == TURNS, purposes
    assert purposes["summary"] >= 1, purposes
    billed = Counter((row["input_tokens"], row["output_tokens"]) for row in rows if row["status"] == "success")
    worked = Counter((entry["usage"]["prompt_tokens"], entry["usage"]["completion_tokens"]) for entry in ledger)
    assert billed == worked, f"billed and not worked for: {billed - worked}; worked for and not billed: {worked - billed}"
    assert all(row["usage_source"] == "reported" for row in rows), "every answer came with its usage"

    # The bound is on stored context by the gateway's count; the model's own may differ by its vocabulary.
    prompts = [entry["usage"]["prompt_tokens"] for entry in ledger if entry["stream"]]
    assert max(prompts) < 1.5 * MAX_TOKENS + 100, prompts
    everything = sum(len(m["message"]["content"]) for m in stored) / 4
    print(
        f"{TURNS} turns, {len(stored)} messages of which {compressed} compressed by {purposes['summary']} summaries; "
        f"prompts of at most {max(prompts)} tokens (all messages: about {everything:.0f}); "
        f"{sum(i + o for (i, o) in worked.elements())} tokens worked for, all of them billed, none twice"
    )
    print(f"1 passed in {time.monotonic() - began:.2f}s")


if __name__ == "__main__":
    main(*sys.argv[1:])
