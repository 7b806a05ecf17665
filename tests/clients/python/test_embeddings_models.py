"""Embeddings and the list of models."""

import math

import pytest

import conftest


@pytest.fixture(params=["openai", "dashscope"])
def embedder(request):
    return conftest.OPENAI_EMBEDDINGS if request.param == "openai" else conftest.DASHSCOPE_EMBEDDINGS


def test_float_and_base64_agree(client, embedder):
    floats = client.embeddings.create(model=embedder, input="alpha", encoding_format="float").data[0].embedding
    # Without a word about it the SDK asks for base64 and decodes it.
    default = client.embeddings.create(model=embedder, input="alpha").data[0].embedding
    assert len(floats) == len(default) >= 64
    assert all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) for one, other in zip(floats, default))


def test_base64_stays_text_on_the_wire(http, embedder):
    body = {"model": embedder, "input": "alpha", "encoding_format": "base64"}
    answer = http.post("/embeddings", json=body).raise_for_status().json()
    assert isinstance(answer["data"][0]["embedding"], str)


def test_order_and_usage_of_many(client, embedder):
    """27 texts are three calls to DashScope; the client sees one."""
    texts = [f"text number {number}" for number in range(27)]
    answer = client.embeddings.create(model=embedder, input=texts, dimensions=64)
    assert [row.index for row in answer.data] == list(range(27))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 27 * 3
    for at in (0, 9, 10, 26):
        alone = client.embeddings.create(model=embedder, input=texts[at], dimensions=64).data[0].embedding
        assert alone == answer.data[at].embedding


def test_token_arrays(client):
    answer = client.embeddings.create(model=conftest.OPENAI_EMBEDDINGS, input=[[1, 2, 3], [4, 5]], dimensions=8)
    assert len(answer.data) == 2
    assert answer.usage.prompt_tokens == 5


def test_models(client):
    ids = [model.id for model in client.models.list()]
    assert conftest.OPENAI_MODEL in ids
    assert conftest.DASHSCOPE_MODEL in ids
    one = client.models.retrieve(conftest.OPENAI_MODEL)
    assert (one.id, one.object) == (conftest.OPENAI_MODEL, "model")
    assert one.created > 0 and one.owned_by
