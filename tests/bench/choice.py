"""What placement chooses unmeasured, beside the best way that `tampu bench` finds on this box.

Each model is placed with no figures kept, then measured in every way there is, then placed again. A way
is judged by the seconds a usual request takes (agent/catalog/measurements.py).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build"))
sys.path.insert(0, str(ROOT))

import msgspec

from agent.catalog.measurements import Measurements, Speed, best, speed_for
from lean_wheel import cache_root
from steps import Trouble, say
from tests.bench.real_models import ensure
from tests.bench.report import this_machine

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LIMIT = 1.05
# Placement's largest prefill step on a CPU.
N_BATCH = 256


class Row(msgspec.Struct, frozen=True):
    """One model. Ratios are of seconds to the best measured way's: 1 is as good."""

    model: str
    chosen: str
    best: str
    chosen_s: float
    best_s: float
    informed_ratio: float
    others_cores: float

    @property
    def ratio(self) -> float:
        return self.chosen_s / self.best_s


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    models = [MODEL, *options.model]
    if not options.quick:
        models += ensure(cache_root() / "models" / "real", Path(sys.executable))
    say(f"Placement's choice and the best that was measured. {this_machine()}")
    rows = []
    for model in models:
        rows.append(judge(model, options.seconds))
        say(line(rows[-1]))
    if options.json:
        options.json.write_text(json.dumps([msgspec.to_builtins(row) for row in rows], indent=1))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./build/prove choice", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the default model only")
    parser.add_argument("--seconds", type=int, default=60, help="to measure each model (default: 60)")
    parser.add_argument("--model", type=Path, action="append", default=[], help="another GGUF file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    return parser.parse_args(arguments)


def judge(model: Path, seconds: int) -> Row:
    """Raises Trouble where a command fails."""
    with tempfile.TemporaryDirectory() as state:
        unmeasured = pick(model, state)
        figures = tampu(model, state, "bench", "--model", model.name, "--seconds", str(seconds), "--json")
        measured = msgspec.convert(figures["measurements"], Measurements)
        # Larger steps would stall the answers under way: placement does not take them.
        usable = tuple(speed for speed in measured.speeds if speed.n_batch <= N_BATCH)
        fastest = best(msgspec.structs.replace(measured, speeds=usable))
        chosen = way_of(unmeasured, measured)
        informed = way_of(pick(model, state), measured)
    if fastest is None or chosen is None or informed is None:
        raise Trouble(f"{model.name}: the chosen way was not measured; give it more with --seconds")
    return Row(
        model=model.stem,
        chosen=name_of(chosen),
        best=name_of(fastest),
        chosen_s=chosen.request_s,
        best_s=fastest.request_s,
        informed_ratio=informed.request_s / fastest.request_s,
        others_cores=measured.others_cores,
    )


def pick(model: Path, state: str) -> Any:
    return tampu(model, state, "models", "pick", "--json")


def tampu(model: Path, state: str, *arguments: str) -> Any:
    """A command's JSON. Raises Trouble with its last line."""
    settings = ["--set", f"models.folder={model.parent}", "--set", f"models.name={model.name}"]
    command = [sys.executable, "-m", "agent", *settings, *arguments]
    environment = os.environ | {"STATE_DIRECTORY": state}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{model.name}: {' '.join(done.stderr.splitlines()[-1:])}")
    return json.loads(done.stdout)


def way_of(picked: Any, measured: Measurements) -> Speed | None:
    """What was measured of the way that was picked, whose words are in its one line."""
    words = picked["runs"]
    n_threads = int(words.split(" threads")[0].split()[-1])
    return speed_for(measured, n_threads, "faster layout" in words, n_batch=picked["n_batch"])


def name_of(speed: Speed) -> str:
    copied = "copied" if speed.is_repacked else "in file"
    return f"{speed.device or 'CPU'}, {speed.n_threads} threads, {copied}, rows {speed.n_batch}"


def line(row: Row) -> str:
    return (
        f"{row.model}: chose {row.chosen}: {row.chosen_s:.2f} s a request;"
        f" best {row.best}: {row.best_s:.2f} s;"
        f" ratio {row.ratio:.2f} (at most {LIMIT:.2f} is wanted), once measured {row.informed_ratio:.2f};"
        f" others kept {row.others_cores:.1f} cores busy"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        print(f"tampu: {trouble}", file=sys.stderr)
        sys.exit(1)
