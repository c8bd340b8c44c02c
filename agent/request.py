"""The words that fronts and engine share: what is asked, and what comes back piece by piece.

Records are frozen msgspec structs: the same value is validated at the door, sent over the engine
pipe and logged. Token counts are in model tokens, times in seconds.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

# SmolLM2's own recommendation; sober enough for devices, not frozen in one phrase.
DEFAULT_TEMPERATURE = 0.2
DEFAULT_TOP_P = 0.9
DEFAULT_TOP_K = 40
# llama.cpp takes 32 bits and reads the last value, 0xFFFFFFFF, as "draw one yourself".
NUM_SEEDS = (1 << 32) - 1

Seed = Annotated[int, Meta(ge=0, lt=NUM_SEEDS)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1000)]
MaxTokens = Annotated[int, Meta(ge=1, le=1 << 20)]
MinP = Annotated[float, Meta(ge=0, lt=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=2)]
Priority = Annotated[int, Meta(ge=-9, le=9)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = Annotated[list[StopString], Meta(max_length=8)]


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation. The content never becomes a control token."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Struct, frozen=True):
    """How the next token is drawn.

    `temperature` 0 is greedy; `top_k` 0 means the whole vocabulary; `min_p` drops what is less
    likely than this part of the likeliest. The penalties count the answer's own tokens: presence
    and frequency as OpenAI defines them, `repeat_penalty` divides (1 is none).
    """

    seed: Seed
    temperature: Temperature = DEFAULT_TEMPERATURE
    top_p: TopP = DEFAULT_TOP_P
    top_k: TopK = DEFAULT_TOP_K
    min_p: MinP = 0.0
    repeat_penalty: RepeatPenalty = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0


class Request(Struct, frozen=True):
    """One accepted prompt, already within every limit.

    `id` is unique for its `client`; `ttl_s` counts from acceptance. Higher `priority` goes first.
    `session` names the client's conversation this is a turn of: what it leaves in the KV cache is
    kept longer. `schema` is the JSON text of the JSON schema the answer keeps to.
    """

    client: str
    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: MaxTokens
    stop: tuple[str, ...] = ()
    ttl_s: float | None = None
    priority: Priority = 0
    session: str | None = None
    schema: str | None = None


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class Usage(Struct, frozen=True):
    """Token counts: `cached` of the `prompt` tokens were not computed again."""

    prompt: int
    cached: int
    completion: int


class Timings(Struct, frozen=True):
    """Where the time went, in seconds, measured in the engine from the moment it had the request."""

    queue_s: float
    prefill_s: float
    decode_s: float


class Trimmed(Struct, frozen=True):
    """What an answer went without to fit: whole oldest turns before it began, and tokens in all."""

    turns: int
    tokens: int


NOTHING_TRIMMED = Trimmed(turns=0, tokens=0)


class Queued(Struct, frozen=True, tag="queued"):
    """The prompt is tokenised and waits for a slot."""

    num_prompt: int


class Started(Struct, frozen=True, tag="started"):
    """The request has a slot: its prompt is being computed."""


class Prefilling(Struct, frozen=True, tag="prefilling"):
    """So many tokens of the prompt are computed; said about once a second until the first token."""

    num_done: int


class Delta(Struct, frozen=True, tag="delta"):
    """New text, and all that another engine process needs to continue right after it.

    `tokens` were generated since the last delta, `draws` counts all random numbers drawn so far.
    Text may be empty while bytes are held back (half a code point, a possible stop string): the
    next process gets them again by detokenising the tokens.
    """

    text: str
    tokens: tuple[int, ...]
    draws: int


class Finished(Struct, frozen=True, tag="finished"):
    """The answer is complete; its text is the sum of the deltas."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    trimmed: Trimmed | None = None


class Failed(Struct, frozen=True, tag="failed"):
    """The request ends in the error with this wire code (see errors.py)."""

    code: str
    message: str
    detail: dict[str, Any] = {}


Event = Queued | Started | Prefilling | Delta | Finished | Failed


class Resume(Struct, frozen=True):
    """Where an interrupted answer stood: the tokens of all its deltas and the draws of the last one.

    The text sent so far follows from the tokens: detokenising them again ends in the same state.
    """

    tokens: tuple[int, ...]
    draws: int
