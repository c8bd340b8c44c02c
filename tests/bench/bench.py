"""What every workload is given: both sides' setting, llama.cpp's tools, and how often to measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steps import say
from tests.bench.llama_tools import LlamaTools
from tests.bench.neighbours import Referee
from tests.bench.report import Figure, Pair
from tests.bench.sides import Setting


@dataclass(frozen=True, slots=True)
class Bench:
    """One call of the benchmark. `is_quick`: does it work at all?"""

    setting: Setting
    tools: LlamaTools
    num_runs: int
    is_quick: bool
    referee: Referee

    def repeat(
        self,
        figures: Sequence[Figure],
        measure: Callable[[], Sequence[Pair]],
        num_runs: int | None = None,
    ) -> list[Figure]:
        """Measure so often, one pair for each figure and run. Raises ValueError when `measure` does."""
        for number in range(1, (num_runs or self.num_runs) + 1):
            for figure, pair in zip(figures, self.referee.undisturbed(measure), strict=True):
                figure.pairs.append(pair)
            first = figures[0]
            ours, theirs = first.pairs[-1]
            say(f"    run {number}: {first.name}: {ours:.1f} {first.unit} beside {theirs:.1f}, {first.peer}")
        return list(figures)

    def in_folder(self, folder: Path) -> "Bench":
        """The same with its files in a folder of their own."""
        folder.mkdir()
        return replace(self, setting=replace(self.setting, folder=folder))


Workload = Callable[[Bench], list[Figure]]
