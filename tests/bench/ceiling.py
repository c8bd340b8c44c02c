"""The engine's own limit where prompts have a common beginning: llama.cpp with no server at all."""

import math
from dataclasses import dataclass

from tests.bench.bench import Bench
from tests.bench.http_client import Question
from tests.bench.llama_tools import Batch, LlamaTools
from tests.bench.load import ask_in_turn
from tests.bench.questions import NUM_CLIENTS, NUM_TOKENS
from tests.bench.sides import llama_server
from tests.bench.streams import Fleet
from tests.bench.variants import DEFAULT


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The common beginning computed once, what is each prompt's own at the same rate, and 16 rows a step."""

    num_shared: int
    name: str = "llama-batched-bench -pps -npl 16 -kvu and the private parts at its prefill rate"

    def rate(self, tools: LlamaTools, fleet: Fleet) -> float:
        """Tokens per second for as many prompts of these sizes."""
        shape = Batch(self.num_shared, NUM_TOKENS, NUM_CLIENTS, is_shared=True)
        batch = tools.batched(shape, unified=True)
        num_waves = math.ceil(len(fleet.streams) / NUM_CLIENTS)
        num_private = sum(stream.num_prompt - self.num_shared for stream in fleet.streams)
        private_s = num_private * batch.prefill_s / self.num_shared
        return num_waves * batch.num_decoded / (batch.prefill_s + private_s + num_waves * batch.decode_s)


def shared_prompt_size(bench: Bench, system: str) -> int:
    """Tokens that prompts after this system prompt have in common, the template's own among them.

    As llama-server counts them: what it has in its cache of a prompt that differs in the first word.
    """
    with llama_server(bench.setting, DEFAULT.sized(4096, 1)) as side:
        fleet = ask_in_turn(side, [Question(word, 1, system) for word in ("7", "x")])
    return fleet.streams[-1].num_cached
