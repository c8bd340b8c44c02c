"""The same as shared_short with a system prompt of 1,000 tokens."""

from dataclasses import replace

from tests.bench.bench import Bench
from tests.bench.ceiling import Ceiling, shared_prompt_size
from tests.bench.fleets import NUM_ANSWERS, mib, server_fleet, tampu_fleet, ttft_max_ms, ttft_p50_ms
from tests.bench.load import Served, serve, warm_up
from tests.bench.questions import LONG_SYSTEM, conversations
from tests.bench.report import Figure, Pair
from tests.bench.sides import llama_server
from tests.bench.variants import ALIKE, DEFAULT

# Its slots divide llama-server's context: each must hold the whole prompt.
VARIANTS = (DEFAULT.sized(24576, 16), ALIKE.sized(24576, 16))
# With the context that Tampu has: divided it would answer none of these, so its slots share it.
SMALL = replace(DEFAULT, name=f"{DEFAULT.name} -kvu", options=("-kvu",)).sized(8192, 16)


def measure(bench: Bench) -> list[Figure]:
    num_shared = shared_prompt_size(bench, LONG_SYSTEM)
    name = f"16 clients, {num_shared} shared tokens"
    ceiling = Ceiling(num_shared)
    figures = [
        Figure(f"{name}, all tokens", "tok/s", ceiling.name, at_least=0.9),
        Figure(f"{name}, answered of {NUM_ANSWERS}", "", SMALL.name, compare="difference"),
    ]
    for variant in VARIANTS:
        peer = variant.name
        figures += [
            Figure(f"{name}, all tokens", "tok/s", peer, at_least=5),
            Figure(f"{name}, TTFT max", "ms", peer, at_most=0.1),
            Figure(f"{name}, TTFT p50", "ms", peer),
            Figure(f"{name}, RSS", "MiB", peer, at_most=0.35),
            Figure(f"{name}, anonymous", "MiB", peer),
        ]
    return bench.repeat(figures, lambda: _pairs(bench, ceiling))


def _pairs(bench: Bench, ceiling: Ceiling) -> list[Pair]:
    ours = tampu_fleet(bench, conversations(LONG_SYSTEM))
    pairs: list[Pair] = [
        (ours.fleet.rate, ceiling.rate(bench.tools, ours.fleet)),
        (len(ours.fleet.answered), _answered_in_small(bench)),
    ]
    for variant in VARIANTS:
        pairs += _compared(ours, server_fleet(bench, variant, conversations(LONG_SYSTEM)))
    return pairs


def _compared(ours: Served, theirs: Served) -> list[Pair]:
    return [
        (ours.fleet.rate, theirs.fleet.rate),
        (ttft_max_ms(ours.fleet.streams), ttft_max_ms(theirs.fleet.streams)),
        (ttft_p50_ms(ours.fleet.streams), ttft_p50_ms(theirs.fleet.streams)),
        (mib(ours.memory.rss), mib(theirs.memory.rss)),
        (mib(ours.memory.anonymous), mib(theirs.memory.anonymous)),
    ]


def _answered_in_small(bench: Bench) -> int:
    """How many prompts llama-server answers with the context that Tampu has."""
    with llama_server(bench.setting, SMALL) as side:
        warm_up(side)
        return len(serve(side, conversations(LONG_SYSTEM)).fleet.answered)
