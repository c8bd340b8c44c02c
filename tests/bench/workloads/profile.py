"""One client asks with a system prompt of 1,000 tokens that the configuration declares as a profile."""

from tests.bench.bench import Bench
from tests.bench.fleets import TAMPU_16, ttft_p50_ms
from tests.bench.http_client import Question
from tests.bench.load import ask_in_turn, warm_up
from tests.bench.questions import LONG_SYSTEM, SUBJECTS, story
from tests.bench.report import Figure, Pair
from tests.bench.sides import llama_server, tampu
from tests.bench.streams import Fleet
from tests.bench.variants import ALIKE

NAME = "1 client with a 1,000-token profile"
VARIANT = ALIKE.sized(8192, 4)
NUM_TOKENS = 16
NUM_QUESTIONS = 7

PROFILE = "greenhouse"
WITH_PROFILE = {**TAMPU_16, "profiles": {PROFILE: {"system": LONG_SYSTEM}}}


def measure(bench: Bench) -> list[Figure]:
    figures = [
        Figure(f"{NAME}, TTFT p50", "ms", VARIANT.name, compare="own", at_most=300),
        Figure(f"{NAME}, TTFT of the first", "ms", VARIANT.name),
    ]
    return bench.repeat(figures, lambda: _pairs(bench))


def _pairs(bench: Bench) -> list[Pair]:
    subjects = SUBJECTS[:NUM_QUESTIONS]
    with tampu(bench.setting, WITH_PROFILE) as side:
        warm_up(side)
        questions = [Question(story(subject), NUM_TOKENS, profile=PROFILE) for subject in subjects]
        ours = ask_in_turn(side, questions)
    with llama_server(bench.setting, VARIANT) as side:
        warm_up(side)
        theirs = ask_in_turn(
            side, [Question(story(subject), NUM_TOKENS, LONG_SYSTEM) for subject in subjects]
        )
    return [
        (ttft_p50_ms(ours.streams), ttft_p50_ms(theirs.streams)),
        (_first_ms(ours), _first_ms(theirs)),
    ]


def _first_ms(fleet: Fleet) -> float:
    return fleet.streams[0].ttft_s * 1e3
