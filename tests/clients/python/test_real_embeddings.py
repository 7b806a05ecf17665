"""A real embedding model as upstream: numbers that mean something, through both encodings.

REAL_EMBEDDINGS_MODEL is its name in Lyss. Without Lyss, REAL_EMBEDDINGS_URL (…/v1) is the model's own server.
"""

import math
import os

import openai
import pytest

import conftest

pytestmark = pytest.mark.real_embeddings

NEAR = ("query: How do I bake bread at home?", "query: Baking a loaf of bread in your own oven")
FAR = "query: The central bank raised interest rates again"


@pytest.fixture(scope="module")
def model():
    return os.environ["REAL_EMBEDDINGS_MODEL"]


@pytest.fixture(scope="module")
def embedder(model):
    url = conftest.LYSS_URL or os.environ["REAL_EMBEDDINGS_URL"]
    with openai.OpenAI(base_url=url, api_key=conftest.API_KEY, max_retries=0, timeout=120) as client:
        yield client


def cosine(one, other):
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def test_float_and_base64_agree(embedder, model):
    floats = embedder.embeddings.create(model=model, input=NEAR[0], encoding_format="float").data[0].embedding
    decoded = embedder.embeddings.create(model=model, input=NEAR[0]).data[0].embedding
    assert len(floats) == len(decoded) == 384
    assert max(abs(a - b) for a, b in zip(floats, decoded)) < 1e-5


def test_meaning_survives(embedder, model):
    answer = embedder.embeddings.create(model=model, input=[*NEAR, FAR])
    assert [row.index for row in answer.data] == [0, 1, 2]
    one, other, far = (row.embedding for row in answer.data)
    assert cosine(one, other) > cosine(one, far) + 0.03
    assert cosine(one, other) > cosine(other, far) + 0.03
    assert answer.usage.prompt_tokens > 0
