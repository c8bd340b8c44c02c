"""16 clients that share a system prompt of 220 tokens: two stories each, 64 tokens an answer."""

from tests.bench.bench import Bench
from tests.bench.ceiling import Ceiling, shared_prompt_size
from tests.bench.fleets import (
    first_round,
    mib,
    mqtt_fleet,
    server_fleet,
    tampu_fleet,
    ttft_max_ms,
    ttft_p50_ms,
)
from tests.bench.load import Served
from tests.bench.questions import SHORT_SYSTEM, conversations
from tests.bench.report import Figure, Pair
from tests.bench.variants import ALIKE, DEFAULT

VARIANTS = (DEFAULT.sized(8192, 16), ALIKE.sized(8192, 16))


def measure(bench: Bench) -> list[Figure]:
    num_shared = shared_prompt_size(bench, SHORT_SYSTEM)
    name = f"16 clients, {num_shared} shared tokens"
    ceiling = Ceiling(num_shared)
    figures = [Figure(f"{name}, all tokens", "tok/s", ceiling.name, at_least=0.9)]
    for variant in VARIANTS:
        peer = variant.name
        figures += [
            Figure(f"{name}, all tokens", "tok/s", peer, at_least=1.7),
            Figure(f"{name}, TTFT p50", "ms", peer, at_most=0.25),
            Figure(f"{name}, TTFT p50 of the first prompts", "ms", peer),
            Figure(f"{name}, TTFT max", "ms", peer),
            Figure(f"{name}, RSS", "MiB", peer, at_most=0.6),
            Figure(f"{name}, anonymous", "MiB", peer, at_most=0.6),
        ]
    figures.append(Figure(f"{name}, all tokens, Tampu over MQTT", "tok/s", VARIANTS[-1].name))
    return bench.repeat(figures, lambda: _pairs(bench, ceiling))


def _pairs(bench: Bench, ceiling: Ceiling) -> list[Pair]:
    ours = tampu_fleet(bench, conversations(SHORT_SYSTEM))
    pairs = [(ours.fleet.rate, ceiling.rate(bench.tools, ours.fleet))]
    for variant in VARIANTS:
        theirs = server_fleet(bench, variant, conversations(SHORT_SYSTEM))
        pairs += _compared(ours, theirs)
    pairs.append((mqtt_fleet(bench, conversations(SHORT_SYSTEM)).rate, theirs.fleet.rate))
    return pairs


def _compared(ours: Served, theirs: Served) -> list[Pair]:
    return [
        (ours.fleet.rate, theirs.fleet.rate),
        (ttft_p50_ms(ours.fleet.streams), ttft_p50_ms(theirs.fleet.streams)),
        (ttft_p50_ms(first_round(ours)), ttft_p50_ms(first_round(theirs))),
        (ttft_max_ms(ours.fleet.streams), ttft_max_ms(theirs.fleet.streams)),
        (mib(ours.memory.rss), mib(theirs.memory.rss)),
        (mib(ours.memory.anonymous), mib(theirs.memory.anonymous)),
    ]
