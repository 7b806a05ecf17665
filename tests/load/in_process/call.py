"""One Python client under load, in a process of its own: prints what its calls cost as JSON.

    python call.py CLIENT URL SECONDS CONCURRENCY...

CLIENT is one of those below; URL is the upstream's, ending in /v1. CPU time is this process's, user and system, over the
window; the warm-up does not count.
"""

import time

import asyncio
import json
import resource
import sys
import tempfile

MODEL = "bench"
MESSAGES = [{"role": "user", "content": "Say a few words about the sea, and why people like to look at it."}]
KEY = "sk-upstream"


def lyss(url):
    import lyss

    imported = time.perf_counter()
    # The whole path: routing, metrics, the spool, the request log in SQLite.
    gw = lyss.AsyncGateway(
        config={
            "data": {"dir": tempfile.mkdtemp(prefix="lyss-bench-")},
            "providers": {"openai": {"api_key": KEY, "base_url": url}},
            "routing": {"default_provider": "openai"},
        }
    )

    async def call():
        answer = await gw.chat.completions.create(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content

    return imported, call


def httpx(url):
    import httpx

    imported = time.perf_counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
    client = httpx.AsyncClient(limits=limits, timeout=60)

    async def call():
        body = {"model": MODEL, "messages": MESSAGES}
        answer = await client.post(f"{url}/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
        return answer.json()["choices"][0]["message"]["content"]

    return imported, call


def aiohttp(url):
    import aiohttp

    imported = time.perf_counter()
    session = None

    async def call():
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = {"model": MODEL, "messages": MESSAGES}
        headers = {"authorization": f"Bearer {KEY}"}
        async with session.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
            return (await answer.json())["choices"][0]["message"]["content"]

    return imported, call


def openai(url):
    import openai

    imported = time.perf_counter()
    client = openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)

    async def call():
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content

    return imported, call


def litellm(url):
    from litellm import Router

    imported = time.perf_counter()
    entry = {"model_name": MODEL, "litellm_params": {"model": f"openai/{MODEL}", "api_base": url, "api_key": KEY}}
    router = Router(model_list=[entry], num_retries=0)

    async def call():
        answer = await router.acompletion(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content

    return imported, call


CLIENTS = {each.__name__: each for each in (lyss, httpx, aiohttp, openai, litellm)}


async def window(call, concurrency, seconds):
    """Calls from so many tasks for so long; each latency in seconds."""
    latencies = []
    end = time.perf_counter() + seconds

    async def one():
        while (began := time.perf_counter()) < end:
            if not await call():
                raise SystemExit("an empty answer")
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(one() for _ in range(concurrency)))
    return latencies


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main():
    name, url, seconds, *concurrencies = sys.argv[1:]
    begun = time.perf_counter()
    imported, call = CLIENTS[name](url)
    runs = []
    for concurrency in map(int, concurrencies):
        await window(call, concurrency, float(seconds) / 4)
        cpu, began = cpu_seconds(), time.perf_counter()
        latencies = sorted(await window(call, concurrency, float(seconds)))
        cpu, elapsed = cpu_seconds() - cpu, time.perf_counter() - began
        runs.append(
            {
                "concurrency": concurrency,
                "cpu_us": cpu / len(latencies) * 1e6,
                "p50_us": latencies[len(latencies) // 2] * 1e6,
                "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
                "calls_per_s": len(latencies) / elapsed,
            }
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"import_ms": (imported - begun) * 1e3, "rss_mib": memory, "runs": runs}))


asyncio.run(main())
