"""Counts cells that several slots may hold: how many hold something, how many of those are in use."""

from collections import Counter
from collections.abc import Iterable


class Cells:
    """Cells are numbers that are never used twice; llama.cpp places them where it likes.

    A cell is *held* while at least one slot has it, and *pinned* while at least one of those slots
    is running: only what is held and not pinned can be let go.
    """

    def __init__(self) -> None:
        self._holds: Counter[int] = Counter()
        self._pins: Counter[int] = Counter()
        self._next = 0

    @property
    def num_held(self) -> int:
        return len(self._holds)

    @property
    def num_pinned(self) -> int:
        return len(self._pins)

    def count_pinned(self, cells: Iterable[int]) -> int:
        """How many of these are pinned."""
        return sum(cell in self._pins for cell in cells)

    def are_shared(self, cells: Iterable[int]) -> bool:
        """True when another slot has one of these, which one slot has."""
        return any(self._holds[cell] > 1 for cell in cells)

    def make(self, count: int) -> list[int]:
        """New cells, held once."""
        cells = list(range(self._next, self._next + count))
        self._next += count
        self.hold(cells)
        return cells

    def hold(self, cells: Iterable[int]) -> None:
        """One more slot has them."""
        self._holds.update(cells)

    def drop(self, cells: Iterable[int]) -> None:
        """One slot fewer has them."""
        _subtract(self._holds, cells)

    def pin(self, cells: Iterable[int]) -> None:
        """One more running slot has them."""
        self._pins.update(cells)

    def unpin(self, cells: Iterable[int]) -> None:
        """One running slot fewer has them."""
        _subtract(self._pins, cells)


def _subtract(counts: Counter[int], cells: Iterable[int]) -> None:
    for cell in cells:
        if counts[cell] == 1:
            del counts[cell]
        else:
            counts[cell] -= 1
