"""One client's stream over MQTT beside llama-bench: what everything around llama.cpp costs."""

from tests.bench.bench import Bench
from tests.bench.box import running_box
from tests.bench.comparisons import STORIES, Streams
from tests.bench.report import Figure

NUM_TOKENS = 96
# One measurement is short: several in each run make up for their noise.
TIMES_PER_RUN = 3


def measure(bench: Bench) -> list[Figure]:
    setting, tools = bench.setting, bench.tools
    streams = Streams(48 if bench.is_quick else NUM_TOKENS, TIMES_PER_RUN)
    with running_box(setting.folder, setting.model.parent, setting.num_threads) as box:
        box.ask(STORIES[0], streams.num_tokens)
        tools.decode_rate(streams.num_tokens)
        num_runs = 1 if bench.is_quick else TIMES_PER_RUN * bench.num_runs
        return bench.repeat(streams.figures, lambda: streams.measure(box, tools), num_runs)
