"""The first prompt after a start, with a profile of 1,000 tokens that an earlier daemon has computed."""

import tempfile
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.fleets import TAMPU_16
from tests.bench.http_client import Question
from tests.bench.load import ask_in_turn, warm_up
from tests.bench.questions import LONG_SYSTEM, SUBJECTS, story
from tests.bench.report import Figure, Pair
from tests.bench.sides import tampu
from tests.bench.workloads.profile import PROFILE, WITH_PROFILE

NUM_TOKENS = 8
# So often the first daemon is asked: what is used once need not be worth keeping.
NUM_LEARNING = 4


def measure(bench: Bench) -> list[Figure]:
    peer = "Tampu, system prompt in the request and computed"
    figures = [Figure("first prompt after a start, kept profile, TTFT", "ms", peer, at_most=0.1)]
    return bench.repeat(figures, lambda: _pairs(bench))


def _pairs(bench: Bench) -> list[Pair]:
    questions = [Question(story(subject), NUM_TOKENS, profile=PROFILE) for subject in SUBJECTS[:NUM_LEARNING]]
    with tempfile.TemporaryDirectory(dir=bench.setting.folder) as state:
        with tampu(bench.setting, WITH_PROFILE, Path(state)) as side:
            ask_in_turn(side, questions)
        with tampu(bench.setting, WITH_PROFILE, Path(state)) as side:
            kept = ask_in_turn(side, [Question(story(SUBJECTS[-1]), NUM_TOKENS, profile=PROFILE)])
    with tampu(bench.setting, TAMPU_16) as side:
        warm_up(side)
        computed = ask_in_turn(side, [Question(story(SUBJECTS[-1]), NUM_TOKENS, LONG_SYSTEM)])
    return [(kept.streams[0].ttft_s * 1e3, computed.streams[0].ttft_s * 1e3)]
