"""The types of results, and of what requests are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, List, Literal, Mapping, Optional, Protocol, TypedDict, Union

from ._model import Model, ResponseMeta

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

__all__ = [
    "ApiKey",
    "Balancer",
    "Body",
    "Budget",
    "CallOptions",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionMessageToolCall",
    "ChatParams",
    "Choice",
    "ChunkChoice",
    "ChunkDelta",
    "CompletionUsage",
    "CreateEmbeddingResponse",
    "Embedding",
    "EmbeddingParams",
    "Function",
    "Health",
    "HealthStatus",
    "MessageParam",
    "Model",
    "ModelInfo",
    "Price",
    "Provider",
    "ProviderInfo",
    "Ready",
    "RequestLog",
    "ResponseMeta",
    "RoutingRule",
    "Session",
    "SessionMessage",
    "SessionStore",
    "TokenCount",
    "UsageTotal",
]


class _Dumpable(Protocol):
    def model_dump(self) -> "dict[str, Any]": ...


MessageParam: TypeAlias = Union[Mapping[str, Any], _Dumpable]
"""A message: a dict as OpenAI's API has it, or an object with `model_dump()`, such as the message of an answer."""

Body: TypeAlias = Union[Mapping[str, Any], List[Any], str, bytes]
"""A body: what is not text or bytes is written as JSON."""


class CallOptions(TypedDict, total=False):
    """What every call takes."""

    timeout: Optional[float]
    """Seconds until `APITimeoutError`: to the answer, of a stream to its first event and between two. Default: no limit but
    the gateway's own."""
    extra_headers: Mapping[str, str]
    """Headers, such as `x-client-request-id`, which is logged."""
    extra_query: Mapping[str, Any]
    """Members of the query besides the arguments."""


class PostOptions(CallOptions, total=False):
    """What calls take that send a body."""

    extra_body: Mapping[str, Any]
    """Members of the body besides the arguments."""
    idempotency_key: str
    """Sending the call again under this key does not do it again, for a day: the answer is the same."""


class ChatParams(PostOptions, total=False):
    """The arguments of a chat call besides `model`, `messages` and `stream`; any other goes into `extra_body`."""

    audio: Optional[Mapping[str, Any]]
    frequency_penalty: Optional[float]
    logit_bias: Optional[Mapping[str, int]]
    logprobs: Optional[bool]
    max_completion_tokens: Optional[int]
    max_tokens: Optional[int]
    metadata: Optional[Mapping[str, str]]
    modalities: Optional[List[str]]
    n: Optional[int]
    parallel_tool_calls: bool
    prediction: Optional[Mapping[str, Any]]
    presence_penalty: Optional[float]
    prompt_cache_key: str
    reasoning_effort: Optional[str]
    response_format: Mapping[str, Any]
    safety_identifier: str
    seed: Optional[int]
    service_tier: Optional[str]
    session_id: Optional[str]
    """The session that the turn belongs to; `"new"` begins one."""
    stop: Union[Optional[str], List[str]]
    store: Optional[bool]
    stream_options: Optional[Mapping[str, Any]]
    temperature: Optional[float]
    tool_choice: Union[str, Mapping[str, Any]]
    tools: Iterable[Mapping[str, Any]]
    top_logprobs: Optional[int]
    top_p: Optional[float]
    user: str
    user_id: Optional[str]
    """Whom the call is made for."""
    verbosity: Optional[str]
    web_search_options: Mapping[str, Any]


class EmbeddingParams(PostOptions, total=False):
    """The arguments of an embeddings call besides `model` and `input`; any other goes into `extra_body`."""

    dimensions: int
    encoding_format: Literal["float", "base64"]
    user: str
    user_id: Optional[str]
    """Whom the call is made for."""


class CompletionUsage(Model):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Optional[Model]
    completion_tokens_details: Optional[Model]


class Function(Model):
    """The function that a tool call names."""

    name: str
    arguments: str


class ChatCompletionMessageToolCall(Model):
    """A call of a tool that the model asks for."""

    _nested = {"function": Function}

    id: str
    type: str
    function: Function
    index: Optional[int]


class ChatCompletionMessage(Model):
    """The message of an answer."""

    _nested = {"tool_calls": ChatCompletionMessageToolCall}

    role: str
    content: Optional[str]
    refusal: Optional[str]
    reasoning_content: Optional[str]
    tool_calls: Optional[List[ChatCompletionMessageToolCall]]
    annotations: Optional[List[Model]]
    audio: Optional[Model]


class Choice(Model):
    """One of the answers."""

    _nested = {"message": ChatCompletionMessage}

    index: int
    finish_reason: Optional[str]
    message: ChatCompletionMessage
    logprobs: Optional[Model]


class ChatCompletion(Model):
    """A complete chat answer."""

    _nested = {"choices": Choice, "usage": CompletionUsage}

    id: str
    object: str
    created: int
    model: str
    choices: List[Choice]
    usage: Optional[CompletionUsage]
    service_tier: Optional[str]
    system_fingerprint: Optional[str]


class ChunkDelta(Model):
    """What a chunk adds to a message."""

    _nested = {"tool_calls": ChatCompletionMessageToolCall}

    role: Optional[str]
    content: Optional[str]
    refusal: Optional[str]
    reasoning_content: Optional[str]
    tool_calls: Optional[List[ChatCompletionMessageToolCall]]


class ChunkChoice(Model):
    """A chunk's part of one of the answers."""

    _nested = {"delta": ChunkDelta}

    index: int
    delta: ChunkDelta
    finish_reason: Optional[str]
    logprobs: Optional[Model]


class ChatCompletionChunk(Model):
    """A piece of a streamed chat answer."""

    _nested = {"choices": ChunkChoice, "usage": CompletionUsage}

    id: str
    object: str
    created: int
    model: str
    choices: List[ChunkChoice]
    usage: Optional[CompletionUsage]
    service_tier: Optional[str]
    system_fingerprint: Optional[str]


class Embedding(Model):
    """One vector."""

    index: int
    object: str
    embedding: List[float]


class CreateEmbeddingResponse(Model):
    """Vectors, in the order of the inputs."""

    _nested = {"data": Embedding, "usage": CompletionUsage}

    object: str
    model: str
    data: List[Embedding]
    usage: CompletionUsage


class ModelInfo(Model):
    """A model that the caller may use."""

    id: str
    object: str
    created: int
    owned_by: str
    provider: str
    max_tokens: Optional[int]
    input_price: Optional[str]
    output_price: Optional[str]
    currency: Optional[str]


class Session(Model):
    """A conversation that the gateway keeps."""

    _plain = frozenset({"metadata"})

    id: str
    object: str
    user_id: str
    message_count: int
    token_count: int
    created_at: str
    last_activity: str
    status: str
    metadata: Optional[Mapping[str, Any]]


class SessionMessage(Model):
    """A message of a session."""

    _nested = {"message": ChatCompletionMessage}

    seq: int
    turn: int
    tokens: int
    compressed: bool
    message: ChatCompletionMessage


class UsageTotal(Model):
    """Totals of one group; the members that it is grouped by are attributes, too."""

    requests: int
    failed_requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    unpriced_requests: int
    cost: Model


class TokenCount(Model):
    """The tokens of a prompt."""

    object: str
    model: str
    upstream_model: str
    tokenizer: str
    input_tokens: int
    messages: List[int]
    tools: int
    response_format: int
    reply: int


class RequestLog(Model):
    """A request of the log. Costs are in 1e-12 of the currency."""

    created_at: str
    user_id: str
    session_id: Optional[str]
    api_key_id: Optional[str]
    model_name: str
    provider_id: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    usage_source: str
    latency_ms: int
    ttft_ms: Optional[int]
    status: str
    error_code: Optional[str]
    error_message: Optional[str]
    attempts: int
    purpose: str
    stream: bool
    client_request_id: Optional[str]
    user_charge_pico: int
    provider_cost_pico: int
    currency: Optional[str]
    price_id: Optional[str]
    decision: Optional[Model]

    @property
    def request_id(self) -> str:
        """The id of the logged request."""
        id: str = self._data()["request_id"]
        return id


class ApiKey(Model):
    """An API key. `key`, the secret, is there only where the key was just made or rotated."""

    id: str
    object: str
    key: Optional[str]
    state: str
    name: str
    user_id: Optional[str]
    scopes: List[str]
    models: Optional[List[str]]
    rpm: Optional[int]
    tpm: Optional[int]
    concurrent: Optional[int]
    budget: Optional[Model]
    created_at: str
    expires_at: Optional[str]
    revoked_at: Optional[str]
    previous_secret_until: Optional[str]


class Budget(Model):
    """A budget and how it stands. Amounts are decimal texts."""

    id: Optional[int]
    user: Optional[str]
    key: Optional[str]
    session: Optional[str]
    total: Optional[bool]
    amount: str
    currency: str
    period: str
    source: str
    spent: Optional[str]
    reserved: Optional[str]
    left: Optional[str]
    renews_at: Optional[str]


class Price(Model):
    """A price of a model, per million tokens, as decimal texts."""

    id: Optional[int]
    model: str
    provider: Optional[str]
    currency: str
    valid_from: Optional[str]
    input: str
    cached_input: Optional[str]
    cache_write: Optional[str]
    output: str
    reasoning: Optional[str]
    tiers: List[Model]
    max_output_tokens: Optional[int]


class ProviderInfo(Model):
    """A provider that is set up."""

    id: str
    source: str
    enabled: bool
    disabled_reason: Optional[str]


class RoutingRule(Model):
    """A target of a model."""

    id: Optional[int]
    model_name: str
    provider_id: str
    priority: int
    weight: int
    max_rps: Optional[int]
    is_enabled: bool
    upstream_model: Optional[str]


class HealthStatus(Model):
    """What the gateway depends on, and whether it answers."""

    database: bool
    redis: bool
    providers: bool


class Health(Model):
    """The gateway's health."""

    _nested = {"status": HealthStatus}

    status: HealthStatus
    healthy: bool
    timestamp: int


class Ready(Model):
    """Whether the gateway takes calls."""

    ready: bool
    degraded: List[str]


class Provider(Protocol):
    """A provider of your own, for `Gateway.register_provider`. Methods may be plain or `async`.

    Besides `chat` there may be:

    - `chat_stream(request)`: an iterator, or an async one, of chunks (dicts as OpenAI streams them, or plain texts);
    - `embeddings(request)`: OpenAI's list as a dict, or a list of vectors;
    - `models()`: a list of names, asked when the provider is looked at.

    An exception with a `status_code` (`lyss.RateLimitError`, or one of the `openai` package) is that refusal of the
    provider; any other is `upstream_error`, and its traceback goes to the logger `lyss`.
    """

    def chat(self, request: "dict[str, Any]") -> Any:
        """Answers a chat request with OpenAI's `chat.completion` as a dict, or with the text alone."""
        ...


class Balancer(Protocol):
    """A load balancer of your own for one tier of targets; see `Gateway(load_balancers=...)`.

    It is called on the hot path and must answer at once. It may have `observe(index, success, latency)` to learn how
    calls ended: `latency` is seconds to the answer, or to the first chunk.
    """

    def pick(
        self, candidates: "list[dict[str, int]]", session: Optional["tuple[str, str]"]
    ) -> Optional[int]:
        """Picks a position in `candidates`, dicts with `index`, `id`, `weight` and `in_flight`; `None` for none of them.
        `session`: the user and the id of the call's session."""
        ...


class SessionStore(Protocol):
    """A session store of your own, for `Gateway(session_store=...)`. Methods may be plain or `async`.

    A session is found by its user *and* its id. It is a dict with `message_count`, `created_ms` and `last_activity_ms`
    (milliseconds since the Unix epoch), and maybe `token_count` and `metadata`. A message is a dict with `seq` (from 1),
    `turn`, `json` (bytes, to be kept as they are) and `tokens`.
    Raise `lyss.ConflictError` for a conflict; whatever else is raised is `session_store_unavailable`.
    """

    def create(self, user_id: str, id: str, metadata: Optional["dict[str, Any]"]) -> Any:
        """Creates a session, or gives the one that exists."""
        ...

    def get(self, user_id: str, id: str) -> Any:
        """The session, or `None`."""
        ...

    def load(self, user_id: str, id: str) -> Any:
        """The session as a turn needs it, or `None`: a dict with `session`, `version` (0 before the first turn),
        `history` and `system` as the last turn left them (`""` and `None` before), and `messages`."""
        ...

    def append(self, user_id: str, id: str, turn: "dict[str, Any]", expected: int) -> Any:
        """Stores a turn if the session is at the version `expected` (0 also where there is none yet: it is created), all
        of it or nothing, and gives the new version. A turn has `request_id`, `history`, `system` (bytes, or `None` to
        leave the stored one) and `messages` with `json` and `tokens`. A turn whose `request_id` was the last one stored
        changes nothing and gives the version it made. `None`: the session was deleted meanwhile."""
        ...

    def messages(self, user_id: str, id: str, after: int, limit: int) -> Any:
        """A dict with `session` and the `messages` whose `seq` is above `after`, oldest first; `None` for no session."""
        ...

    def list(self, user_id: str, cursor: Optional[str], limit: int) -> Any:
        """A dict with a user's `sessions` (with `id`), newest activity first, and `next_cursor`."""
        ...

    def delete(self, user_id: str, id: str) -> Any:
        """Deletes a session; whether there was one."""
        ...

    def ping(self) -> Any:
        """Raises if the store does not answer."""
        ...
