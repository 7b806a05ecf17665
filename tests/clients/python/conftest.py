"""The official SDKs against Lyss, or against the mock provider alone.

Environment: LYSS_URL (ends in /v1) and LYSS_API_KEY name the gateway; MOCK_URL (no path) names the mock provider behind
it. Without LYSS_URL the SDKs talk to the mock and tests marked `lyss` are not collected; with it, everything runs.
"""

import os
import uuid

import httpx
import openai
import pytest

from upstream import Upstream

LYSS_URL = os.environ.get("LYSS_URL", "").rstrip("/")
MOCK_URL = os.environ.get("MOCK_URL", "").rstrip("/")
API_KEY = os.environ.get("LYSS_API_KEY", "sk-test")
OPENAI_MODEL = os.environ.get("LYSS_OPENAI_MODEL", "gpt-4o-mini")
DASHSCOPE_MODEL = os.environ.get("LYSS_DASHSCOPE_MODEL", "qwen-plus")
OPENAI_EMBEDDINGS = os.environ.get("LYSS_OPENAI_EMBEDDINGS_MODEL", "text-embedding-3-small")
DASHSCOPE_EMBEDDINGS = os.environ.get("LYSS_DASHSCOPE_EMBEDDINGS_MODEL", "text-embedding-v4")
DASHSCOPE_VISION = os.environ.get("LYSS_DASHSCOPE_VISION_MODEL", "qwen3-vl-plus")


def pytest_configure(config):
    if not MOCK_URL:
        raise pytest.UsageError("MOCK_URL is not set; tests/clients/run.sh sets it")


def pytest_collection_modifyitems(config, items):
    def runs(item):
        if item.get_closest_marker("real_embeddings"):
            # Behind Lyss a missing model is a failure of the setup, not a reason to leave the test out.
            return bool(LYSS_URL or os.environ.get("REAL_EMBEDDINGS_URL"))
        return bool(LYSS_URL) or not item.get_closest_marker("lyss")

    left_out = [item for item in items if not runs(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if runs(item)]


@pytest.fixture(scope="session")
def base_url():
    return LYSS_URL or f"{MOCK_URL}/v1"


@pytest.fixture
def client(base_url):
    """The SDK as an application would make it, but each call tells at once what happened."""
    with openai.OpenAI(base_url=base_url, api_key=API_KEY, max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
async def async_client(base_url):
    async with openai.AsyncOpenAI(base_url=base_url, api_key=API_KEY, max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def http(base_url):
    """Plain HTTP, for what no SDK would send."""
    headers = {"authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def upstream():
    with Upstream(MOCK_URL) as upstream:
        yield upstream
        upstream.control(reset=True)


@pytest.fixture
def marker():
    """A word that names this test's requests in the mock's records."""
    return f"marker{uuid.uuid4().hex}"


@pytest.fixture(params=["openai", "dashscope"])
def model(request):
    """Each protocol behind the gateway; the client must not see a difference."""
    return OPENAI_MODEL if request.param == "openai" else DASHSCOPE_MODEL
