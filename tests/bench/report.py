"""Figures as pairs of numbers, the table that shows them, and the machine they were taken on."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(slots=True)
class Figure:
    """One thing measured on both sides, again and again: `pairs` of Tampu's number and its peer's.

    Each pair was taken back to back, so that a machine that drifts spoils both alike. A figure that
    `is_difference` compares by Tampu's number less the peer's, others by their ratio.
    """

    name: str
    unit: str
    peer: str
    is_difference: bool = False
    at_least: float | None = None
    pairs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def tampu(self) -> float:
        return statistics.median(ours for ours, _ in self.pairs)

    @property
    def theirs(self) -> float:
        return statistics.median(theirs for _, theirs in self.pairs)

    @property
    def comparisons(self) -> list[float]:
        """Of each pair."""
        return [ours - theirs if self.is_difference else ours / theirs for ours, theirs in self.pairs]

    @property
    def compared(self) -> float:
        """The median over the pairs."""
        return statistics.median(self.comparisons)

    @property
    def is_met(self) -> bool | None:
        """None when nothing is asked of this figure."""
        return None if self.at_least is None else self.compared >= self.at_least

    def to_tree(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields | {
            "tampu": self.tampu,
            "llama_cpp": self.theirs,
            "compared": self.compared,
            "met": self.is_met,
        }


def table(figures: Sequence[Figure]) -> str:
    """Markdown: medians, and the range of the comparisons."""
    head = [("figure", "Tampu", "beside", "ratio", "range", "wanted"), ("---",) * 6]
    return _markdown([*head, *(_row(figure) for figure in figures)])


def _row(figure: Figure) -> tuple[str, ...]:
    ours, theirs = f"{figure.tampu:.1f} {figure.unit}", f"{figure.theirs:.1f} {figure.unit}, {figure.peer}"
    compared = (figure.compared, min(figure.comparisons), max(figure.comparisons))
    median, low, high = (f"{x:+.1f} {figure.unit}" if figure.is_difference else f"{x:.3f}" for x in compared)
    return figure.name, ours, theirs, median, f"{low} to {high}", _verdict(figure)


def _verdict(figure: Figure) -> str:
    if figure.at_least is None:
        return ""
    return f">= {figure.at_least}: {'met' if figure.is_met else 'MISSED'}"


def memory_table(rows: Sequence[tuple[str, Memory]]) -> str:
    """Markdown, in MiB."""
    head = [("process", "RSS", "anonymous"), ("---",) * 3]
    return _markdown([*head, *((name, _mib(memory.rss), _mib(memory.anonymous)) for name, memory in rows)])


def _mib(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / (1 << 20):.0f} MiB"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
