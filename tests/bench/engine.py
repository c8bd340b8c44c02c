"""Tampu beside llama-server built from the same llama.cpp, at what a box is bought for.

Fleets with and without a common system prompt, long prompts in between, memory, busy neighbours, start;
README.md beside it says what each figure means. Ends with status 0 whatever the figures are, unless
something broke.
"""

import argparse
import importlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# For tests.*, and for the build scripts' way of talking and of building llama.cpp.
sys.path.insert(0, str(ROOT / "build"))
sys.path.insert(0, str(ROOT))

from agent.hardware.cores import usable_cores
from steps import Trouble, duration, say
from tests.bench.bench import Bench, Workload
from tests.bench.llama_build import ensure_tools
from tests.bench.llama_tools import LlamaTools
from tests.bench.neighbours import Referee
from tests.bench.options import count
from tests.bench.report import Figure, Machine, table, this_machine
from tests.bench.sides import Setting
from tests.bench.variants import ALIKE_MEANS

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# Modules of workloads/, the quick ones first.
NAMES = (
    "decode",
    "start",
    "busy",
    "profile",
    "persisted",
    "gaps",
    "separate",
    "shared_short",
    "shared_long",
    "smallest",
)
# A disturbed measurement of minutes is repeated once, then taken as it is.
MAX_TRIES = 2


def main(arguments: Sequence[str]) -> int:
    # As Ctrl-C does: no process and no cgroup of ours is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parse(arguments)
    machine = this_machine()
    say(f"Compares Tampu with llama-server of the same llama.cpp. {machine}")
    names = options.only or NAMES
    try:
        if not MODEL.is_file():
            raise Trouble(f"{MODEL} is missing: run ./build/fetch-models")
        with tempfile.TemporaryDirectory(prefix="tampu-engine-") as folder:
            bench = prepare(options, Path(folder))
            figures, is_whole = measure(bench, names)
    except Trouble as trouble:
        print(f"tampu: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntampu: stopped", file=sys.stderr)
        return 130
    say(report(machine, bench, figures))
    if options.json:
        options.json.write_text(json.dumps(to_tree(machine, bench, figures), indent=1) + "\n")
    return 0 if is_whole else 1


def prepare(options: argparse.Namespace, folder: Path) -> Bench:
    """Raises Trouble when llama.cpp's programs cannot be built."""
    programs, num_threads = ensure_tools(), options.threads or usable_cores()
    return Bench(
        setting=Setting(folder, MODEL, programs / "llama-server", num_threads),
        tools=LlamaTools(programs, MODEL, num_threads),
        num_runs=1 if options.quick else options.runs,
        is_quick=options.quick,
        referee=Referee(1 if options.quick else MAX_TRIES),
    )


def measure(bench: Bench, names: Sequence[str]) -> tuple[list[Figure], bool]:
    """All figures, and whether every workload came to its end: one that breaks does not stop the others."""
    figures: list[Figure] = []
    is_whole = True
    for name in names:
        started = time.monotonic()
        say(f"  {name}")
        workload = load(name)
        try:
            figures += workload(bench.in_folder(bench.setting.folder / name))
        except (Trouble, ValueError, OSError) as error:
            is_whole = False
            figures.append(Figure(name, "", "", note=str(error)))
            say(f"    broke: {error}")
        say(f"    {duration(time.monotonic() - started)}")
    return figures, is_whole


def load(name: str) -> Workload:
    workload: Workload = importlib.import_module(f"tests.bench.workloads.{name}").measure
    return workload


def report(machine: Machine, bench: Bench, figures: Sequence[Figure]) -> str:
    return "\n".join(
        [
            f"\n{machine}",
            f"{MODEL.name}, {bench.setting.num_threads} threads; medians of {bench.num_runs} runs, each on "
            "fresh processes; ratios are medians of pairs taken back to back.",
            f"{bench.referee}",
            f"{ALIKE_MEANS}.\n",
            table(figures),
        ]
    )


def to_tree(machine: Machine, bench: Bench, figures: Sequence[Figure]) -> dict[str, object]:
    return {
        "machine": asdict(machine),
        "model": MODEL.name,
        "threads": bench.setting.num_threads,
        "runs": bench.num_runs,
        "figures": [figure.to_tree() for figure in figures],
        "measured": bench.referee.num_measured,
        "disturbed": bench.referee.num_disturbed,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="this one (may be given again)")
    parser.add_argument("--runs", type=count, default=3, metavar="N", help="how often to measure (default 3)")
    parser.add_argument("--threads", type=count, metavar="N", help="of both sides (default: the daemon's)")
    parser.add_argument("--quick", action="store_true", help="one short run: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
