"""Figures as pairs of numbers, the table that shows them, and the machine they were taken on."""

import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.bench.memory import Memory

# Above this share of the cores at work before we begin, the figures are about the neighbours too.
QUIET_LOAD_PER_CORE = 0.35


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured; the load average at the start says how far the figures may be trusted."""

    cpu: str
    num_cores: int
    load: float

    @property
    def is_quiet(self) -> bool:
        return self.load <= QUIET_LOAD_PER_CORE * self.num_cores

    def __str__(self) -> str:
        noise = "" if self.is_quiet else " (not quiet: expect noise)"
        return f"{self.cpu}, {self.num_cores} cores, load average at start {self.load:.2f}{noise}"


def this_machine() -> Machine:
    return Machine(cpu_model(), os.cpu_count() or 1, os.getloadavg()[0])


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The marketing name; ARM kernels give none, then the machine's word for itself."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


Comparing = Literal["ratio", "difference", "own"]
Pair = tuple[float, float]
"""Tampu's number and its peer's."""


@dataclass(slots=True)
class Figure:
    """One thing measured on both sides, again and again: `pairs` of Tampu's number and its peer's.

    Each pair was taken back to back, so that a machine that drifts spoils both alike. Numbers are compared
    by their ratio or their difference (Tampu's less the peer's); of an `own` one only Tampu's number counts,
    and `peer` may be empty.
    `note` says why nothing was measured, or what happened besides.
    """

    name: str
    unit: str
    peer: str
    compare: Comparing = "ratio"
    at_least: float | None = None
    at_most: float | None = None
    pairs: list[Pair] = field(default_factory=list)
    note: str = ""

    @property
    def tampu(self) -> float:
        return statistics.median(ours for ours, _ in self.pairs)

    @property
    def theirs(self) -> float:
        return statistics.median(theirs for _, theirs in self.pairs)

    @property
    def comparisons(self) -> list[float]:
        """Of each pair."""
        match self.compare:
            case "ratio":
                return [ours / theirs for ours, theirs in self.pairs]
            case "difference":
                return [ours - theirs for ours, theirs in self.pairs]
            case "own":
                return [ours for ours, _ in self.pairs]

    @property
    def compared(self) -> float:
        """The median over the pairs."""
        return statistics.median(self.comparisons)

    @property
    def is_met(self) -> bool | None:
        """None when nothing is asked of this figure, or nothing was measured."""
        if not self.pairs or (self.at_least is None and self.at_most is None):
            return None
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.compared <= high

    def to_tree(self) -> dict[str, Any]:
        tree = asdict(self) | {"met": self.is_met}
        if self.pairs:
            tree |= {"tampu": self.tampu, "beside": self.theirs, "compared": self.compared}
        return tree


def table(figures: Sequence[Figure]) -> str:
    """Markdown: medians, and the range of the comparisons."""
    head = [("figure", "Tampu", "beside", "ratio", "range", "wanted"), ("---",) * 6]
    return markdown([*head, *(_row(figure) for figure in figures)])


def _row(figure: Figure) -> tuple[str, ...]:
    if not figure.pairs:
        return figure.name, f"not measured: {figure.note}", "", "", "", _wanted(figure)
    name = f"{figure.name} ({figure.note})" if figure.note else figure.name
    ours, theirs = _number(figure.tampu, figure.unit), _number(figure.theirs, figure.unit)
    compared = (figure.compared, min(figure.comparisons), max(figure.comparisons))
    median, low, high = (_comparison(figure, value) for value in compared)
    verdict = f"{_wanted(figure)}: {'met' if figure.is_met else 'MISSED'}" if _wanted(figure) else ""
    beside = f"{theirs}, {figure.peer}" if figure.peer else ""
    return name, ours, beside, median, f"{low} to {high}", verdict


def _comparison(figure: Figure, value: float) -> str:
    match figure.compare:
        case "ratio":
            return f"{value:.3f}"
        case "difference":
            return f"{'+' if value > 0 else ''}{_number(value, figure.unit)}"
        case "own":
            return _number(value, figure.unit)


def _wanted(figure: Figure) -> str:
    unit = f" {figure.unit}".rstrip() if figure.compare == "own" else ""
    bounds = ((">=", figure.at_least), ("<=", figure.at_most))
    return ", ".join(f"{sign} {bound:g}{unit}" for sign, bound in bounds if bound is not None)


def _number(value: float, unit: str) -> str:
    return f"{value:.0f} {unit}".rstrip() if unit in ("", "MiB") else f"{value:.1f} {unit}"


def memory_table(rows: Sequence[tuple[str, Memory]]) -> str:
    """Markdown, in MiB."""
    head = [("process", "RSS", "anonymous"), ("---",) * 3]
    return markdown([*head, *((name, _mib(memory.rss), _mib(memory.anonymous)) for name, memory in rows)])


def _mib(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / (1 << 20):.0f} MiB"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head, the second the line under it."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
