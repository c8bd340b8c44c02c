"""What is compared, and how: each comparison measures both sides back to back."""

from dataclasses import dataclass, field
from typing import Protocol

from tests.bench.box import Box
from tests.bench.llama_tools import Batch, LlamaTools
from tests.bench.questions import SUBJECTS
from tests.bench.report import Figure, Pair

# What is asked of one client's stream: the whole way over MQTT may cost three tokens in a hundred.
WANTED_RATIO = 0.97

# As many clients as are answered at once by default.
NUM_STORIES = 8
STORIES = tuple(
    f"Tell me a very long story about {subject}, with many chapters." for subject in SUBJECTS[:NUM_STORIES]
)
REPORT = "The greenhouse has twelve beds, and each has one sensor for moisture, one for light, and a valve. "
LONG_PROMPT = f"{REPORT * 20}Tell me a very long story about it, with many chapters."


class Comparison(Protocol):
    """Some figures that are measured together."""

    figures: list[Figure]
    times_per_run: int

    def measure(self, box: Box, tools: LlamaTools) -> tuple[Pair, ...]:
        """One pair for each figure. Raises ValueError when an answer was not what was asked for."""


@dataclass(slots=True)
class Streams:
    """One client's stream of `num_tokens`."""

    num_tokens: int
    times_per_run: int
    figures: list[Figure] = field(init=False)

    def __post_init__(self) -> None:
        self.figures = [
            Figure("one client, decode", "tok/s", "llama-bench", at_least=WANTED_RATIO),
            Figure("one client, decode by the engine's clock", "tok/s", "llama-bench"),
            Figure("one client, decode", "tok/s", "llama-bench at the prompt's depth"),
        ]

    def measure(self, box: Box, tools: LlamaTools) -> tuple[Pair, ...]:
        answer = box.ask(STORIES[0], self.num_tokens)
        peer = tools.decode_rate(self.num_tokens)
        deep = tools.decode_rate(self.num_tokens, depth=answer.num_prompt)
        return (answer.decode_rate, peer), (answer.engine_decode_rate, peer), (answer.decode_rate, deep)


@dataclass(slots=True)
class FirstTokens:
    """Time to the first text of one prompt."""

    prompt: str
    num_prompt: int
    times_per_run: int
    figures: list[Figure] = field(init=False)

    def __post_init__(self) -> None:
        name = f"TTFT, {self.num_prompt}-token prompt"
        self.figures = [
            Figure(name, "ms", "llama-bench's prefill", compare="difference"),
            Figure(name, "ms", "our engine's own share of it", compare="difference"),
        ]

    def measure(self, box: Box, tools: LlamaTools) -> tuple[Pair, ...]:
        # Two tokens, so that the first goes out as the beginning of a stream does.
        answer = box.ask(self.prompt, 2)
        peer_s = tools.prefill_s(answer.num_prefilled, depth=answer.num_cached)
        ttft_ms = answer.ttft_s * 1e3
        return (ttft_ms, peer_s * 1e3), (ttft_ms, answer.engine_ttft_s * 1e3)


@dataclass(slots=True)
class Crowds:
    """Eight clients at once, each with its own story."""

    num_prompt: int
    num_tokens: int
    times_per_run: int = 1
    figures: list[Figure] = field(init=False)

    def __post_init__(self) -> None:
        name = f"{len(STORIES)} clients"
        self.figures = [
            Figure(f"{name}, decode", "tok/s", "llama-batched-bench"),
            Figure(f"{name}, decode", "tok/s", "llama-batched-bench -kvu"),
            Figure(f"{name}, prompts included", "tok/s", "llama-batched-bench"),
        ]

    def measure(self, box: Box, tools: LlamaTools) -> tuple[Pair, ...]:
        crowd = box.ask_at_once(STORIES, self.num_tokens)
        batch = Batch(self.num_prompt, self.num_tokens, num_sequences=len(STORIES))
        peer, unified = tools.batched(batch), tools.batched(batch, unified=True)
        return (
            (crowd.decode_rate, peer.decode_rate),
            (crowd.decode_rate, unified.decode_rate),
            (crowd.overall_rate, peer.overall_rate),
        )


def warmed_up(box: Box, tools: LlamaTools, *, num_tokens: int, times_per_run: int) -> list[Comparison]:
    """Every comparison, after an unmeasured round that fills the page cache and learns the prompts' sizes."""
    story = box.ask(STORIES[0], num_tokens)
    long = box.ask(LONG_PROMPT, 2)
    box.ask_at_once(STORIES, num_tokens)
    tools.decode_rate(num_tokens)
    return [
        Streams(num_tokens, times_per_run),
        FirstTokens(STORIES[0], story.num_prompt, times_per_run),
        FirstTokens(LONG_PROMPT, long.num_prompt, times_per_run=1),
        Crowds(story.num_prompt, num_tokens),
    ]
