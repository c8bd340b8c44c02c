"""Tampu beside llama.cpp's own benchmarks: what broker, daemon and Python cost. See README.md here."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "build")]

from steps import Trouble, say

from agent.engine_process import SPIN_COUNT
from agent.errors import TampuError
from agent.hardware.cpu import usable_cores
from tests.bench.box import Box, running_box
from tests.bench.llama_tools import LlamaTools, ensure_tools
from tests.bench.memory import Memory
from tests.bench.report import Figure, Machine, memory_table, table, this_machine

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# What is asked of one client's stream: the whole way over MQTT may cost one token in twenty.
WANTED_RATIO = 0.95

# Answers to these go on for more than 256 tokens with the model above, decoded greedily.
SUBJECTS = (
    "a lighthouse keeper",
    "a mountain village",
    "a desert caravan",
    "a clever fox",
    "an old clockmaker",
    "a river ferry",
    "a winter market",
    "a stone bridge",
)
STORIES = tuple(f"Tell me a very long story about {subject}, with many chapters." for subject in SUBJECTS)
REPORT = "The greenhouse has twelve beds, and each bed has a sensor for soil moisture, one for light, and a valve. "
LONG_PROMPT = f"{REPORT * 20}Tell me a very long story about it, with many chapters."


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each. The short measurements are noisy and cheap, so a run has several of them."""

    num_runs: int
    num_tokens: int
    num_threads: int
    streams_per_run: int = 3
    prompts_per_run: int = 3


class Peers:
    """Every figure, and the runs that fill them."""

    def __init__(self, box: Box, tools: LlamaTools, plan: Plan) -> None:
        self._box, self._tools, self._plan = box, tools, plan
        num_crowd = len(STORIES)
        self.one = Figure("one client, decode", "tok/s", "llama-bench", at_least=WANTED_RATIO)
        self.one_engine = Figure("the same by the engine's clock", "tok/s", "llama-bench")
        self.one_deep = Figure("one client, decode", "tok/s", "llama-bench after a prompt as long")
        self.crowd = Figure(f"{num_crowd} clients, decode", "tok/s", "llama-batched-bench")
        self.crowd_unified = Figure(
            f"{num_crowd} clients, decode", "tok/s", "llama-batched-bench with one KV cache"
        )
        self.crowd_overall = Figure(
            f"{num_crowd} clients, prompts included", "tok/s", "llama-batched-bench's total"
        )
        self.ttft: list[Figure] = []
        self.memory: list[tuple[str, Memory]] = []

    @property
    def figures(self) -> list[Figure]:
        crowds = [self.crowd, self.crowd_unified, self.crowd_overall]
        return [self.one, self.one_engine, self.one_deep, *crowds, *self.ttft]

    def measure(self) -> None:
        """Everything, both sides in turn."""
        self._note_memory("idle")
        self._warm_up()
        for number in range(1, self._plan.num_runs + 1):
            self._compare_streams()
            for prompt in (STORIES[0], LONG_PROMPT):
                self._compare_ttft(prompt)
            self._compare_crowds()
            self._say_progress(number)
        self._note_memory(f"after {len(STORIES)} clients")
        peak = self._tools.peak_memory(self._num_long, self._plan.num_tokens)
        self.memory.append(("llama-bench, peak", peak))

    def _warm_up(self) -> None:
        """Fill the page cache, learn how long the prompts are, and see that every answer goes on long enough."""
        story = self._box.ask(STORIES[0], self._plan.num_tokens)
        long = self._box.ask(LONG_PROMPT, 2)
        self._box.ask_at_once(STORIES, self._plan.num_tokens)
        self._tools.decode_rate(self._plan.num_tokens)
        self._num_story, self._num_long = story.num_prompt, long.num_prompt
        for num_prompt in (story.num_prompt, long.num_prompt):
            self.ttft += [
                Figure(f"TTFT, {num_prompt}-token prompt", "ms", "llama-bench's prefill", is_difference=True),
                Figure("the same", "ms", "the engine's own queue and prefill", is_difference=True),
            ]

    def _compare_streams(self) -> None:
        num_tokens = self._plan.num_tokens
        for _ in range(self._plan.streams_per_run):
            answer = self._box.ask(STORIES[0], num_tokens)
            rate = self._tools.decode_rate(num_tokens)
            deep = self._tools.decode_rate(num_tokens, depth=answer.num_prompt)
            self.one.add(answer.decode_rate, rate)
            self.one_engine.add(answer.engine_decode_rate, rate)
            self.one_deep.add(answer.decode_rate, deep)
