"""`tampu bench`: how fast this box runs a model, measured and kept for placement."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# Only the words; what measures is imported where it runs.
if TYPE_CHECKING:
    from agent.bench import Outcome
    from agent.bench_plan import Box, Target
    from agent.config import Config
    from agent.hardware.machine import Machine

DEFAULT_SECONDS = 100.0
MIN_SECONDS, MAX_SECONDS = 5.0, 3600.0
# Left to the daemon and everybody else while a model is measured, bytes.
MARGIN_BYTES = 64 << 20
HEALTH = "/health"

EPILOG = """\
examples:
  tampu bench
  tampu bench --model auto --seconds 30
  tampu bench --json > box.json
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench`."""
    parser = subparsers.add_parser(
        "bench",
        help="measure how fast this box runs a model",
        description="Measure how fast this box runs a model, in every way there is, and keep the figures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", metavar="NAME", help="a model's name or FILE.gguf (default: models.name)")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=_seconds,
        default=DEFAULT_SECONDS,
        help=f"about how long to measure (default: {DEFAULT_SECONDS:.0f})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=bench)


def bench(args: argparse.Namespace) -> int:
    """Measure, keep and print. Raises ModelUnavailable when nothing could be measured."""
    import asyncio

    import msgspec

    from agent import bench, config_file
    from agent.catalog.measurements import best
    from agent.cli.bench_report import Bar, Report, render
    from agent.hardware.probe import probe

    config = config_file.load(args.config, args.set)
    machine = probe()
    target = find(config, machine, args.model or config.models.name)
    _warn_of_daemon(config)
    with Bar(sys.stderr) as bar:
        outcome = asyncio.run(bench.measure(target, _what_box(machine), args.seconds, bar))
    kept, notes = _keep(outcome)
    report = Report(
        name=target.name,
        quant=target.quant,
        file=str(target.path),
        measurements=outcome.measurements,
        best=best(outcome.measurements),
        notes=notes,
        kept=kept,
    )
    print(
        msgspec.json.encode(report).decode()
        if args.json
        else render(report, machine.cpu.model or machine.cpu.arch)
    )
    return 0


def find(config: "Config", machine: "Machine", name: str) -> "Target":
    """The file that placement takes for this name. Raises ModelUnavailable or InsufficientMemory."""
    from msgspec.structs import replace

    from agent.bench_plan import Target
    from agent.catalog.gguf import read_header
    from agent.catalog.isa import repack_bytes
    from agent.hardware.memory import ROOT
    from agent.model_finder import choose
    from agent.resources import read_resources

    config = replace(config, models=replace(config.models, name=name))
    placement = choose(config, read_resources(ROOT, (), 0, machine=machine, config=config))
    path = Path(placement.load.path)
    return Target(
        name=placement.name,
        quant=placement.quant,
        path=path,
        key=placement.load.model_key,
        file_bytes=path.stat().st_size,
        copied_bytes=repack_bytes(read_header(path), machine.cpu.features),
    )


def _what_box(machine: "Machine") -> "Box":
    from agent.bench_plan import Box, thread_counts
    from agent.catalog.measurements import box_key
    from agent.hardware.bandwidth import buffer_bytes
    from agent.hardware.cores import usable_cores
    from agent.hardware.memory import rooms

    available = min(room.available_bytes for room in rooms())
    return Box(
        key=box_key(machine.cpu, (gpu.name for gpu in machine.gpus)),
        threads=thread_counts(machine.cpu, usable_cores()),
        room_bytes=max(0, available - MARGIN_BYTES),
        buffer_bytes=buffer_bytes(available),
    )


def _keep(outcome: "Outcome") -> tuple[str, tuple[str, ...]]:
    """Write the figures down; the file, and the notes with why not if they were not kept.

    Figures that were disturbed do not take the place of others that placement follows.
    """
    from agent import places
    from agent.catalog.measurements import load, save

    folder, new = places.measurements_folder(), outcome.measurements
    before = load(folder, new.box, new.build, new.model_key) if new.is_disturbed else None
    if before and not before.is_disturbed:
        return "", (*outcome.notes, "not kept: those of before, which nobody disturbed, stay")
    try:
        return str(save(folder, new)), outcome.notes
    except OSError as error:
        note = f"the figures could not be kept in {folder}: {error.strerror}; run it as the daemon's user"
        return "", (*outcome.notes, note)


def _warn_of_daemon(config: "Config") -> None:
    from agent import places
    from agent.cli.socket_client import SocketClient
    from agent.errors import TampuError

    try:
        SocketClient(places.socket_to_ask(config.api.socket)).get_json(HEALTH)
    except TampuError:
        return
    warning = "a running tampu shares the cores: figures will be low; stop it first"
    print(f"tampu: {warning}", file=sys.stderr)


def _seconds(text: str) -> float:
    """Raises ArgumentTypeError, which argparse turns into a usage error."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text}: {MIN_SECONDS:.0f} to {MAX_SECONDS:.0f} seconds")
    return seconds
