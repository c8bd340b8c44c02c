"""16 clients with nothing in common: two stories each, 64 tokens an answer."""

from tests.bench.bench import Bench
from tests.bench.fleets import mqtt_fleet, server_fleet, tampu_fleet, ttft_p50_ms
from tests.bench.questions import conversations
from tests.bench.report import Figure, Pair
from tests.bench.variants import ALIKE, DEFAULT

NAME = "16 clients, separate prompts"
VARIANTS = (DEFAULT.sized(8192, 16), ALIKE.sized(8192, 16))


def measure(bench: Bench) -> list[Figure]:
    figures = []
    for variant in VARIANTS:
        figures.append(Figure(f"{NAME}, all tokens", "tok/s", variant.name, at_least=1.0))
        figures.append(Figure(f"{NAME}, TTFT p50", "ms", variant.name))
    figures.append(Figure(f"{NAME}, all tokens, Tampu over MQTT", "tok/s", VARIANTS[-1].name))
    return bench.repeat(figures, lambda: _pairs(bench))


def _pairs(bench: Bench) -> list[Pair]:
    ours = tampu_fleet(bench, conversations()).fleet
    pairs = []
    for variant in VARIANTS:
        theirs = server_fleet(bench, variant, conversations()).fleet
        pairs.append((ours.rate, theirs.rate))
        pairs.append((ttft_p50_ms(ours.streams), ttft_p50_ms(theirs.streams)))
    pairs.append((mqtt_fleet(bench, conversations()).rate, theirs.rate))
    return pairs
