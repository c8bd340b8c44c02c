"""One client beside processes that keep one core each busy for ever."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.bench import Bench
from tests.bench.http_client import Question
from tests.bench.load import ask_one, warm_up
from tests.bench.questions import NUM_TOKENS, SUBJECTS, story
from tests.bench.report import Figure, Pair
from tests.bench.sides import Side, llama_server, tampu
from tests.bench.variants import ALIKE, DEFAULT

VARIANTS = (DEFAULT.sized(4096, 8), ALIKE.sized(4096, 8))
# Ratios to llama-server as it comes, beside so many busy processes. That its threads spin is the point.
WANTED = {1: 1.5, 2: 8.0}
QUESTION = Question(story(SUBJECTS[0]), NUM_TOKENS)
GIVE_UP_S = 90.0


def measure(bench: Bench) -> list[Figure]:
    figures = [
        Figure(
            f"1 client beside {count} busy process{'es' if count > 1 else ''}, decode",
            "tok/s",
            variant.name,
            at_least=wanted if variant is VARIANTS[0] else None,
        )
        for count, wanted in WANTED.items()
        for variant in VARIANTS
    ]
    return bench.repeat(figures, lambda: [pair for count in WANTED for pair in _pairs(bench, count)])


def _pairs(bench: Bench, count: int) -> list[Pair]:
    with tampu(bench.setting, {}) as side:
        ours = _rate(side, count)
    pairs = []
    for variant in VARIANTS:
        with llama_server(bench.setting, variant) as side:
            pairs.append((ours, _rate(side, count)))
    return pairs


def _rate(side: Side, count: int) -> float:
    warm_up(side)
    with busy(count):
        return ask_one(side, QUESTION, GIVE_UP_S).decode_rate


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute, until the end of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
