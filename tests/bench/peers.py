"""Tampu beside llama.cpp's own benchmarks: what engine process, daemon, broker and Python cost.

Both sides run on the same file with the same threads, in turn, within one run of this script; README.md
beside it says what each figure means. Ends with status 0 whatever the figures are, unless something broke.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# For tests.*, and for the build scripts' way of talking and of building llama.cpp.
sys.path.insert(0, str(ROOT / "build"))
sys.path.insert(0, str(ROOT))

from agent.engine_process import SPIN_COUNT
from agent.hardware.cores import usable_cores
from steps import Trouble, say
from tests.bench.box import Box, running_box
from tests.bench.comparisons import STORIES, warmed_up
from tests.bench.llama_build import ensure_tools
from tests.bench.llama_tools import LlamaTools
from tests.bench.memory import Memory
from tests.bench.neighbours import Referee
from tests.bench.options import count
from tests.bench.report import Figure, Machine, memory_table, table, this_machine

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each."""

    num_runs: int
    num_tokens: int
    num_threads: int
    # One client's measurements are short: several in each run make up for their noise.
    times_per_run: int
    # Of a measurement that other processes disturb.
    max_tries: int


@dataclass(frozen=True, slots=True)
class Result:
    """All that was measured. `default_spin` is llama-bench's decode rate without GOMP_SPINCOUNT."""

    machine: Machine
    plan: Plan
    figures: list[Figure]
    memory: list[tuple[str, Memory]]
    referee: Referee
    default_spin: float

    def to_tree(self) -> dict[str, Any]:
        return {
            "machine": asdict(self.machine),
            "plan": asdict(self.plan),
            "model": MODEL.name,
            "figures": [figure.to_tree() for figure in self.figures],
            "memory": {name: asdict(memory) for name, memory in self.memory},
            "measured": self.referee.num_measured,
            "disturbed": self.referee.num_disturbed,
            "llama_bench_default_spin": self.default_spin,
        }

    def __str__(self) -> str:
        plan = self.plan
        return "\n".join(
            [
                f"\n{self.machine}",
                f"{MODEL.name}, {plan.num_threads} threads, {plan.num_tokens} tokens an answer; medians of "
                f"{plan.num_runs} runs, ratios and differences of pairs taken back to back.",
                f"{self.referee}",
                f"llama.cpp's tools ran with GOMP_SPINCOUNT={SPIN_COUNT}, as the daemon's engine does; "
                f"without it llama-bench decoded at {self.default_spin:.1f} tok/s.\n",
                table(self.figures),
                "",
                memory_table(self.memory),
            ]
        )


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    machine = this_machine()
    say(f"Compares Tampu with llama.cpp's own benchmarks. {machine}")
    try:
        if not MODEL.is_file():
            raise Trouble(f"{MODEL} is missing: run ./build/fetch-models")
        plan = plan_of(options)
        tools = LlamaTools(ensure_tools(), MODEL, plan.num_threads)
        with (
            tempfile.TemporaryDirectory(prefix="tampu-peers-") as folder,
            running_box(Path(folder), MODEL.parent, plan.num_threads) as box,
        ):
            result = measure(box, tools, plan, machine)
    except (Trouble, ValueError) as error:
        print(f"tampu: {error}", file=sys.stderr)
        return 1
    say(str(result))
    if options.json:
        options.json.write_text(json.dumps(result.to_tree(), indent=1) + "\n")
    return 0


def measure(box: Box, tools: LlamaTools, plan: Plan, machine: Machine) -> Result:
    """Warm up, then every comparison once in each run."""
    memory, referee = label(box, "idle"), Referee(plan.max_tries)
    comparisons = warmed_up(box, tools, num_tokens=plan.num_tokens, times_per_run=plan.times_per_run)
    for number in range(1, plan.num_runs + 1):
        for comparison in comparisons:
            for _ in range(comparison.times_per_run):
                pairs = referee.undisturbed(partial(comparison.measure, box, tools))
                for figure, pair in zip(comparison.figures, pairs, strict=True):
                    figure.pairs.append(pair)
        main_figure = comparisons[0].figures[0]
        say(f"  run {number} of {plan.num_runs}: {main_figure.name} {main_figure.compared:.3f} so far")
    memory += label(box, f"after {len(STORIES)} clients")
    memory.append(("llama-bench, peak", tools.peak_memory(plan.num_tokens)))
    figures = [figure for comparison in comparisons for figure in comparison.figures]
    default_spin = tools.decode_rate(plan.num_tokens, spin_count=None)
    return Result(machine, plan, figures, memory, referee, default_spin)


def label(box: Box, when: str) -> list[tuple[str, Memory]]:
    """The memory of both processes now, with names."""
    daemon, engine = box.memory()
    return [(f"daemon, {when}", daemon), (f"engine, {when}", engine)]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=count, metavar="N", help="how often to measure (default 5)")
    parser.add_argument("--tokens", type=count, metavar="N", help="tokens an answer, up to 256 (default 96)")
    parser.add_argument("--threads", type=count, metavar="N", help="of both sides (default: the daemon's)")
    parser.add_argument("--quick", action="store_true", help="one short run: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    num_runs, num_tokens, times_per_run, max_tries = (1, 48, 1, 1) if options.quick else (5, 96, 3, 4)
    return Plan(
        options.runs or num_runs,
        options.tokens or num_tokens,
        options.threads or usable_cores(),
        times_per_run,
        max_tries,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
