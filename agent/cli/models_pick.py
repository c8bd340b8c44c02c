"""`tampu models pick`: which model file this box would load, how, and why not the others."""

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.catalog.candidate import Candidate

if TYPE_CHECKING:
    from agent.catalog.placement import Placement

MIB = 1 << 20
WIDTH = 100
EPILOG = """\
examples:
  tampu models pick
  tampu --set engine.memory=300M models pick
  tampu --set models.name=auto --set engine.gpu=off models pick --json

A running daemon's memory counts as taken here: `tampu doctor` sees what the daemon would load again.
"""


class Picked(Struct, frozen=True):
    """What `--json` prints. Profiles are left out: they are prompts."""

    name: str
    quant: str
    file: str
    runs: str
    n_batch: int
    why: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def pick(args: argparse.Namespace) -> int:
    """Print the choice. Raises ModelUnavailable or InsufficientMemory where there is none."""
    import asyncio

    import msgspec

    from agent import config_file
    from agent.doctor import build
    from agent.engine.messages import Hello
    from agent.hardware.memory import ROOT
    from agent.hardware.probe import probe
    from agent.model_finder import choose
    from agent.resources import read_resources

    config = config_file.load(args.config, args.set)
    models = msgspec.structs.replace(config.models, folder=args.folder or config.models.folder)
    config = msgspec.structs.replace(config, models=models)
    heard = asyncio.run(build.hear())
    if not isinstance(heard, Hello):
        print("tampu: GPUs are left out, the engine does not start here; see: tampu doctor", file=sys.stderr)
    hello = heard if isinstance(heard, Hello) else None
    placement = choose(config, read_resources(ROOT, (), 0, machine=probe(), hello=hello, config=config))
    if args.json:
        print(msgspec.json.encode(_picked(placement)).decode())
    else:
        print(render(placement))
    return 0


def _picked(placement: "Placement") -> Picked:
    return Picked(
        name=placement.name,
        quant=placement.quant,
        file=placement.load.path,
        runs=placement.runs,
        n_batch=placement.load.n_batch,
        why=placement.why,
        candidates=placement.candidates,
    )


def render(placement: "Placement") -> str:
    """The choice, its reasons, and a line or two for every file."""
    lines = [f"{placement.name} {placement.quant}: {placement.runs}"]
    lines += [f"  {reason}" for reason in placement.why]
    for candidate in placement.candidates:
        lines += ["", *_lines(candidate)]
    return "\n".join(map(_wrapped, lines))


def _wrapped(line: str) -> str:
    """What does not fit goes on below, further in."""
    return textwrap.fill(
        line, WIDTH, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False
    )


def _lines(candidate: Candidate) -> list[str]:
    mark = "*" if candidate.is_chosen else " "
    lines = [f"{mark} {candidate.name} {candidate.quant} ({candidate.fits}): {candidate.reason}"]
    if fit := candidate.fit:
        parts = {"weights": fit.weights_bytes, "copy": fit.repack_bytes, "KV cache": fit.kv_bytes}
        parts |= {"compute": fit.compute_bytes, "fixed": fit.fixed_bytes}
        told = " + ".join(f"{name} {size / MIB:.0f}" for name, size in parts.items() if size)
        on_device = f", {fit.device_bytes / MIB:.0f} of it on the GPU" if fit.device_bytes else ""
        lines.append(f"    {told} = {fit.total_bytes / MIB:.0f} MiB{on_device}")
    if candidate.decode_tok_s is not None:
        how = "measured" if candidate.is_measured else "estimated"
        quality = f", quality {candidate.quality:.3f} of the unquantised" if candidate.quality else ""
        lines.append(f"    {candidate.decode_tok_s:g} tok/s {how}{quality}")
    return lines
