"""What placement predicts of memory, beside what an engine process takes.

Every model at hand x context x KV format x weights in the file or copied. Two predictions are judged:
placement's, from the file's header alone, and the engine's own forecast, which asks llama.cpp.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build"))
sys.path.insert(0, str(ROOT))

import msgspec

import corpus
import lean_wheel
from agent.catalog.gguf import GgufHeader, read_header
from agent.catalog.isa import repack_bytes
from agent.catalog.shape import shape_of
from agent.catalog.way import LIBRARY_BYTES, Way, parts
from agent.engine.messages import Load
from agent.hardware.probe import probe
from environment import read_lock
from lean_wheel import cache_root
from steps import Trouble, say
from tests.bench.hollow_models import HOLLOWS, make
from tests.bench.prediction_child import Taken
from tests.bench.real_models import ensure
from tests.bench.report import this_machine

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHILD = Path(__file__).with_name("prediction_child.py")
CONTEXTS = (1024, 4096, 8192)
KV_TYPES = ("f16", "q8_0")
N_SEQ_MAX, N_BATCH = 8, 256
LIMIT = 0.05
MIB = 1 << 20


class Row(msgspec.Struct, frozen=True):
    """One measurement; bytes. Predictions are of the whole: own memory and pages of files."""

    model: str
    n_ctx: int
    kv_type: str
    is_repacked: bool
    anonymous_bytes: int
    file_bytes: int
    placement_bytes: int
    forecast_bytes: int

    @property
    def measured_bytes(self) -> int:
        return self.anonymous_bytes + self.file_bytes

    def error(self, predicted: int) -> float:
        return predicted / self.measured_bytes - 1


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    say(f"Predicted and measured memory of an engine process. {this_machine()}")
    rows = []
    say(
        f"{'model':<34}{'n_ctx':>6} {'kv':<5}{'weights':<10}{'measured':>10}{'placement':>17}{'forecast':>17}"
    )
    with tempfile.TemporaryDirectory(dir=cache_root()) as folder:
        for model in [MODEL, *options.model, *([] if options.quick else others(Path(folder)))]:
            for row in measured(model, CONTEXTS[:1] if options.quick else CONTEXTS):
                rows.append(row)
                say(line(row))
    worst = max(rows, key=lambda row: abs(row.error(row.placement_bytes)))
    far = max(abs(row.error(row.forecast_bytes)) for row in rows)
    say(
        f"Placement is at most {abs(worst.error(worst.placement_bytes)):.1%} off ({worst.model}, "
        f"{worst.n_ctx} {worst.kv_type}), the forecast {far:.1%}; at most {LIMIT:.0%} is wanted."
    )
    if options.json:
        options.json.write_text(json.dumps([msgspec.to_builtins(row) for row in rows], indent=1))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./build/prove memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the default model and one context only")
    parser.add_argument("--model", type=Path, action="append", default=[], help="another GGUF file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    return parser.parse_args(arguments)


def others(folder: Path) -> list[Path]:
    """Real models, and shapes of more that placement's constants were not fitted to."""
    vocabularies = corpus.folder(lean_wheel.recipe(read_lock("run")))
    found = ensure(cache_root() / "models" / "real", Path(sys.executable))
    if not vocabularies.is_dir():
        say("  without the other shapes: ./build/test fetches the vocabularies they need")
        return found
    return [*found, *(make(hollow, vocabularies, folder) for hollow in HOLLOWS)]


def measured(model: Path, contexts: Sequence[int]) -> Iterator[Row]:
    """Every combination, in formats this model's cache can have."""
    header, features = read_header(model), probe().cpu.features
    kv_types = [kv_type for kv_type in KV_TYPES if kv_type in shape_of(header).kv.types]
    for n_ctx, kv_type, is_repacked in itertools.product(contexts, kv_types, (False, True)):
        yield measure(model, header, features, n_ctx, kv_type, is_repacked)


def measure(
    model: Path, header: GgufHeader, features: Sequence[str], n_ctx: int, kv_type: str, is_repacked: bool
) -> Row:
    """One process of its own. Raises Trouble with its last words."""
    way = Way(n_threads=2, n_batch=N_BATCH, num_slots=N_SEQ_MAX, kv_type=kv_type, is_repacked=is_repacked)
    fit = parts(shape_of(header), way, repack_bytes(header, features)).with_cells(n_ctx)
    load = Load(
        path=str(model),
        n_ctx=n_ctx,
        n_seq_max=N_SEQ_MAX,
        n_batch=N_BATCH,
        n_threads=way.n_threads,
        kv_type=kv_type,
        n_gpu_layers=0,
        is_repacked=is_repacked,
    )
    child = subprocess.run(
        [sys.executable, CHILD], input=msgspec.json.encode(load), capture_output=True, check=False
    )
    if child.returncode:
        raise Trouble(f"{model.name}: {child.stderr.decode(errors='replace').splitlines()[-1:]}")
    taken = msgspec.json.decode(child.stdout, type=Taken)
    forecast = taken.forecast
    return Row(
        model=model.stem,
        n_ctx=n_ctx,
        kv_type=kv_type,
        is_repacked=is_repacked,
        anonymous_bytes=taken.anonymous_bytes,
        file_bytes=taken.file_bytes,
        placement_bytes=fit.total_bytes + LIBRARY_BYTES,
        forecast_bytes=forecast.needed_bytes(n_ctx) + forecast.weights_bytes + LIBRARY_BYTES,
    )


def line(row: Row) -> str:
    weights = "copied" if row.is_repacked else "in file"
    told = "".join(
        f"{size / MIB:>9.1f} ({row.error(size):+.1%})" for size in (row.placement_bytes, row.forecast_bytes)
    )
    return (
        f"{row.model:<34}{row.n_ctx:>6} {row.kv_type:<5}{weights:<10}{row.measured_bytes / MIB:>10.1f}{told}"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        print(f"tampu: {trouble}", file=sys.stderr)
        sys.exit(1)
