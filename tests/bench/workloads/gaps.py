"""How long two running streams stand still while a prompt of 2,000 tokens arrives."""

import asyncio

from tests.bench.bench import Bench
from tests.bench.fleets import TAMPU_16
from tests.bench.http_client import Question, ask
from tests.bench.load import warm_up
from tests.bench.questions import SUBJECTS, story, system_prompt
from tests.bench.report import Figure, Pair
from tests.bench.sides import Side, llama_server, tampu
from tests.bench.streams import Fleet, Stream, percentile
from tests.bench.variants import ALIKE, DEFAULT

NAME = "2 streams while a 2,000-token prompt arrives"
VARIANTS = (DEFAULT.sized(12288, 4), ALIKE.sized(12288, 4))
NUM_STREAMS = 2
NUM_TOKENS = 256
LONG = Question(f"{system_prompt(97)} {story(SUBJECTS[-1])}", 8)
# Until both streams run, and long before they end.
SETTLE_S = 2.0


def measure(bench: Bench) -> list[Figure]:
    figures = []
    for variant in VARIANTS:
        figures += [
            Figure(f"{NAME}, p99 of gaps", "ms", variant.name, compare="own", at_most=250),
            Figure(f"{NAME}, longest gap", "ms", variant.name, compare="own", at_most=500),
            Figure(f"{NAME}, its TTFT", "ms", variant.name),
        ]
    return bench.repeat(figures, lambda: _pairs(bench))


def _pairs(bench: Bench) -> list[Pair]:
    with tampu(bench.setting, TAMPU_16) as side:
        ours = _stalls_ms(side)
    pairs: list[Pair] = []
    for variant in VARIANTS:
        with llama_server(bench.setting, variant) as side:
            pairs += zip(ours, _stalls_ms(side), strict=True)
    return pairs


def _stalls_ms(side: Side) -> tuple[float, float, float]:
    """The 99th percentile and the maximum of the gaps, and the long prompt's own time to first text."""
    warm_up(side)
    return asyncio.run(_stalls_ms_of(side))


async def _stalls_ms_of(side: Side) -> tuple[float, float, float]:
    is_over = asyncio.Event()
    running = [asyncio.create_task(_stories(side, number, is_over)) for number in range(NUM_STREAMS)]
    await asyncio.sleep(SETTLE_S)
    long = await ask(side.socket, LONG, "device-9")
    is_over.set()
    streams = [stream for group in await asyncio.gather(*running) for stream in group]
    Fleet((long, *streams)).check_complete(side.name)
    first_at = long.asked_at + long.ttft_s
    gaps_ms = [gap * 1e3 for stream in streams for gap in stream.gaps(long.asked_at, first_at)]
    return percentile(gaps_ms, 99), max(gaps_ms), long.ttft_s * 1e3


async def _stories(side: Side, number: int, is_over: asyncio.Event) -> list[Stream]:
    """One client that asks for the next story as soon as one ends."""
    streams = []
    for subject in SUBJECTS[number:-1:NUM_STREAMS]:
        streams.append(await ask(side.socket, Question(story(subject), NUM_TOKENS), f"device-{number}"))
        if is_over.is_set():
            break
    return streams
