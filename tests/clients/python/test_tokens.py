"""POST /tokens against Python's tiktoken, and the rules of OpenAI's cookbook around it.

tiktoken is fed offline: with the vocabularies that lyss-core's own crate carries.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import conftest

pytestmark = pytest.mark.lyss

ROOT = pathlib.Path(__file__).parents[3]
MODELS = {"gpt-4o-mini": "o200k_base", "gpt-4.1": "o200k_base", "gpt-5-mini": "o200k_base", "gpt-4-turbo": "cl100k_base"}

TEXTS = {
    "english": "Nobody expects the gateway to fall over at noon; it's when everyone's prompts arrive. Don't they?",
    "chinese": "人工智能网关位于应用程序与大语言模型提供商之间，负责路由、限流、计费和会话管理。「故障」时自动切换！",
    "japanese": "ゲートウェイは、アプリケーションとモデルの間に置かれます。",
    "russian": "Шлюз стоит между приложением и поставщиком модели.",
    "arabic": "تقع البوابة بين التطبيق ومزود النموذج.",
    "emoji": "👍🏽 👩‍💻🚀 done ✅ → e\u0301 \u200d \U0001f1e9\U0001f1ea",
    "code": "def f(x: int) -> int:\n\treturn x  # twice\n\n\nprint(f(10_000), 'it''s', \"ok\")   \n",
    "json": json.dumps({"id": 1677652288, "a": [1.5e-7, None, True], "näme": "wert"}, indent=2, ensure_ascii=False),
    "base64": "aGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0IGVuY29kZWQ=" * 20,
    "digits": "0123456789" * 30 + " 3.14159, 1e308",
    "blanks": "a" + " " * 300 + "b\n\n\n   c\t\t \r\n\r\n d\u00a0\u3000e",
    "special": "<|endoftext|><|im_start|>system<|im_end|>",
    "escapes": "quote \" backslash \\ slash / null \0 bell \a",
    "empty": "",
}
# Long enough to be counted in several segments, with all that ends one.
TEXTS["long"] = "\n".join(TEXTS.values()) * 40
TEXTS["long without blanks"] = (TEXTS["chinese"] + TEXTS["base64"]).replace(" ", "") * 60

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {
                        "type": "string",
                        "description": "The unit of temperature to return",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["location"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
    },
]


@pytest.fixture(scope="session")
def encodings(tmp_path_factory):
    """tiktoken's encodings, from the assets of the Rust crate."""
    cache = tmp_path_factory.mktemp("tiktoken")
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"], cwd=ROOT))
    manifest = next(p["manifest_path"] for p in metadata["packages"] if p["name"] == "tiktoken-rs")
    for name in set(MODELS.values()):
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        data = pathlib.Path(manifest).with_name("assets").joinpath(f"{name}.tiktoken").read_bytes()
        cache.joinpath(hashlib.sha1(url.encode()).hexdigest()).write_bytes(data)
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
    import tiktoken

    return {name: tiktoken.get_encoding(name) for name in set(MODELS.values())}


@pytest.fixture(params=sorted(MODELS))
def counting(request, encodings, http):
    """A model, tiktoken's count of a text, and the gateway's count of a request."""
    model, encoding = request.param, encodings[MODELS[request.param]]

    def gateway(messages, **fields):
        answer = http.post("/tokens", json={"model": f"openai/{model}", "messages": messages, **fields})
        counted = answer.raise_for_status().json()
        assert (counted["object"], counted["tokenizer"]) == ("token_count", MODELS[model])
        assert (counted["model"], counted["upstream_model"]) == (f"openai/{model}", model)
        parts = sum(counted["messages"]) + counted["tools"] + counted["response_format"] + counted["reply"]
        assert counted["input_tokens"] == parts
        return counted

    return model, lambda text: len(encoding.encode(text, disallowed_special=())), gateway


def cookbook(messages, tokens):
    """num_tokens_from_messages of OpenAI's cookbook."""
    count = 3
    for message in messages:
        count += 3 + sum(tokens(value) for value in message.values()) + ("name" in message)
    return count


def cookbook_tools(tools, tokens, start):
    """num_tokens_for_tools of OpenAI's cookbook."""
    count = 12
    for tool in tools:
        function = tool["function"]
        count += start + tokens(f"{function['name']}:{function['description'].removesuffix('.')}")
        properties = function["parameters"]["properties"]
        count += 3 if properties else 0
        for name, schema in properties.items():
            count += 3 + tokens(f"{name}:{schema['type']}:{schema['description'].removesuffix('.')}")
            count += sum(3 + tokens(value) for value in schema["enum"]) - 3 if "enum" in schema else 0
    return count


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_counts_as_in_tiktoken(counting, name):
    _, tokens, gateway = counting
    message = {"role": "user", "content": TEXTS[name]}
    assert gateway([message])["messages"] == [3 + tokens("user") + tokens(TEXTS[name])]


def test_messages_count_as_in_the_cookbook(counting):
    _, tokens, gateway = counting
    messages = [{"role": "system", "content": TEXTS["english"]}]
    messages += [{"role": "system", "name": "example_user", "content": text} for text in TEXTS.values()]
    messages += [{"role": "assistant", "content": "Sure."}, {"role": "user", "content": TEXTS["code"]}]
    assert gateway(messages)["input_tokens"] == cookbook(messages, tokens)
    parts = [{"type": "text", "text": text} for text in TEXTS.values()]
    split = gateway([{"role": "user", "content": parts}])["input_tokens"]
    assert split == 3 + 3 + tokens("user") + sum(map(tokens, TEXTS.values()))


def test_tools_count_as_in_the_cookbook(counting):
    model, tokens, gateway = counting
    start = 7 if MODELS[model] == "o200k_base" else 10
    counted = gateway([{"role": "user", "content": "hi"}], tools=TOOLS)
    assert counted["tools"] == cookbook_tools(TOOLS, tokens, start)


def test_estimates_for_qwen_are_near_its_own_vocabulary(http):
    """The vocabulary that Alibaba's SDK carries; no provider has reported anything for this model."""
    from dashscope.tokenizers import get_tokenizer

    qwen = get_tokenizer("qwen-turbo")
    estimated = counted = 0
    for name in ["english", "chinese", "japanese", "russian", "code", "json"]:
        message = {"role": "user", "content": TEXTS[name]}
        answer = http.post("/tokens", json={"model": "aliyun/qwen-never-called", "messages": [message]}).raise_for_status()
        one = answer.json()["messages"][0] - 4
        assert answer.json()["tokenizer"] == "estimate"
        assert 0.6 < one / len(qwen.encode(TEXTS[name])) < 1.5, name
        estimated, counted = estimated + one, counted + len(qwen.encode(TEXTS[name]))
    assert 0.85 < estimated / counted < 1.15


@pytest.mark.parametrize("unit", ["a", " ", "\n", "👍", "(", "e\u0301", "1"])
@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4-turbo", "aliyun/qwen-plus"])
def test_a_hostile_text_is_counted_soon(http, model, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    message = {"role": "user", "content": text}
    answer = http.post("/tokens", json={"model": model, "messages": [message]}).raise_for_status()
    assert answer.elapsed.total_seconds() < 15  # of a debug build beside others
    assert 0 < answer.json()["input_tokens"] < len(text.encode()) + 10


def test_large_counts_hold_up_nobody(http):
    """While as many large texts are counted as the machine has no cores for, a small request is answered."""
    large = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a" * 800_000}]}
    small = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    http.post("/tokens", json=small).raise_for_status()
    with ThreadPoolExecutor(8) as pool:
        counts = [pool.submit(http.post, "/tokens", json=large) for _ in range(8)]
        waits = []
        while not all(count.done() for count in counts):
            waits.append(http.post("/tokens", json=small).raise_for_status().elapsed.total_seconds())
            time.sleep(0.02)
        assert {count.result().json()["input_tokens"] for count in counts} == {800_000 // 8 + 7}
    assert len(waits) > 5, "the large ones took no time"
    assert sorted(waits)[len(waits) // 2] < 0.5


def test_a_key_is_needed(http):
    body = {"model": conftest.OPENAI_MODEL, "messages": [{"role": "user", "content": "hi"}]}
    answer = http.post("/tokens", json=body, headers={"authorization": "Bearer nobody"})
    assert answer.status_code == 401
