"""How many KV cells there are: few at first, more when work needs them, none while nobody asks.

llama.cpp fills its cache with zeros when it makes it, so that cells which nobody uses cost as much
memory as any. Memory comes back only by making another context around a copy of the state
(bit-exact, shared cells stay shared). Old cells and copy, then copy and new cells exist at the same
time: every resize keeps their sum within the budget as well.
"""

import logging
import time
from collections.abc import Callable

from agent.engine.backend import Backend
from agent.engine.messages import N_CTX_START, Forecast
from agent.errors import InsufficientMemory

log = logging.getLogger(__name__)

# llama.cpp rounds a context up to this many cells.
STEP = 256
# A resize costs a pause of a tenth of a second: grow by a part of what there is, not by a step.
GROWTH = 1.5
# What was refused once may be had again after so long.
RETRY_S = 30.0
# Pressure levels (messages.Pressure) from which on the pool does not grow.
FROZEN_AT = 2


class Pool:
    """The size of the backend's context within `hard_bytes` of anonymous memory (0: no bound).

    Raises InsufficientMemory when not even the smallest context fits.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        n_ctx: int,
        n_ctx_start: int = N_CTX_START,
        hard_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._start = n_ctx_start
        self._in_all = _cells_within(hard_bytes, backend.forecast)
        self._lent: list[tuple[int, Callable[[], bool]]] = []
        self._refused_at = -RETRY_S
        # From a size up to half of this one can always grow to it: the copied state, at most as large
        # as the old cells, fits beside the new ones.
        within_budget = n_ctx if self._in_all is None else _round_down(self._in_all * 2 // 3)
        self.max_cells = self._most = min(n_ctx, within_budget)
        if self.max_cells < min(STEP, n_ctx):
            raise InsufficientMemory(
                f"the model needs {backend.forecast.needed_bytes(STEP * 3 // 2) >> 20} MiB at least and may"
                f" have {hard_bytes >> 20}; raise engine.memory or choose a smaller model"
            )
        self._pressure = 0
        self.num_resizes = 0
        self.longest_resize_s = 0.0

    @property
    def num_cells(self) -> int:
        return self._backend.num_cells

    @property
    def is_asleep(self) -> bool:
        return self.num_cells == 0

    @property
    def pressure(self) -> int:
        """How short the box is of memory: a level of messages.Pressure."""
        return self._pressure

    @pressure.setter
    def pressure(self, level: int) -> None:
        self._pressure = level
        if level == 0:
            # What was refused once may be had again.
            self.max_cells = self._most

    @property
    def reachable(self) -> int:
        """The most cells work can count on now."""
        if self.max_cells < self._most and self._clock() - self._refused_at > RETRY_S:
            self.max_cells = self._most
        if self._pressure >= FROZEN_AT and not self.is_asleep:
            return min(self.num_cells, self.max_cells)
        return self.max_cells

    def lend(self, num_cells: int, is_lent: Callable[[], bool]) -> None:
        """Somebody keeps a copy of so many cells for as long as `is_lent` says."""
        self._lent.append((num_cells, is_lent))

    @property
    def _affordable(self) -> int | None:
        """What `_in_all` leaves for cells and copies now that some are lent; None without a budget."""
        self._lent = [(count, is_lent) for count, is_lent in self._lent if is_lent()]
        return None if self._in_all is None else self._in_all - sum(count for count, _ in self._lent)

    def can_copy(self, num_cells: int) -> bool:
        """True when a copy of so many cells fits into the budget beside the context."""
        return self._is_affordable(self.num_cells, num_cells)

    def wake(self) -> None:
        """Make the context again. Raises InsufficientMemory."""
        if self.is_asleep:
            self.max_cells = self._most
            self._resize(self._size_for(self._start))

    def sleep(self) -> None:
        """Give the context's memory back, with all that is in it."""
        if not self.is_asleep:
            self._resize(0)

    def grow(self, needed: int, num_resident: int) -> bool | None:
        """Make room for `needed` cells if that can be, or for as many as can.

        None: nothing changed. True: grown. False: grown, but what was resident is lost.
        """
        target = self._target(needed)
        if target <= self.num_cells or not self._is_affordable(target, num_resident):
            return None
        try:
            return self._resize(target)
        except InsufficientMemory as error:
            log.warning("the KV cache stays at %d cells: %s", self.num_cells, error)
            self.max_cells, self._refused_at = max(STEP, self.num_cells), self._clock()
            return None

    def shrink(self, num_resident: int) -> bool | None:
        """Give back what nobody uses; as `grow`."""
        target = self._size_for(max(_round_up(num_resident), self._start))
        if (
            self.is_asleep
            or target >= self.num_cells
            or not self._is_affordable(self.num_cells, num_resident)
        ):
            return None
        try:
            return self._resize(target)
        except InsufficientMemory as error:
            log.warning("the KV cache stays at %d cells: %s", self.num_cells, error)
            return None

    def _target(self, needed: int) -> int:
        if needed <= self.num_cells or self.num_cells >= self.reachable:
            return self.num_cells
        return self._size_for(_round_up(max(needed, int(self.num_cells * GROWTH))))

    def _size_for(self, cells: int) -> int:
        """This size, or the largest one: from a full pool that is too large the way there is barred."""
        is_trap = self._in_all is not None and cells + self.max_cells > self._in_all
        return self.max_cells if is_trap else min(cells, self.max_cells)

    def _is_affordable(self, larger: int, num_resident: int) -> bool:
        affordable = self._affordable
        return affordable is None or larger + num_resident <= affordable

    def _resize(self, num_cells: int) -> bool:
        before, started = self.num_cells, time.monotonic()
        is_kept = self._backend.resize(num_cells)
        seconds = time.monotonic() - started
        self.num_resizes += 1
        if before:  # waking up stops nobody's answer
            self.longest_resize_s = max(self.longest_resize_s, seconds)
        log.info("KV cache: %d -> %d cells in %.0f ms", before, self.num_cells, seconds * 1e3)
        return is_kept


def _cells_within(hard_bytes: int, forecast: Forecast) -> int | None:
    """Cells the budget has room for once everything else has its memory; None without a budget."""
    if not hard_bytes or not forecast.cell_bytes:
        return None
    return max(0, hard_bytes - forecast.needed_bytes(0)) // forecast.cell_bytes


def _round_up(cells: int) -> int:
    return -(-cells // STEP) * STEP


def _round_down(cells: int) -> int:
    return cells // STEP * STEP
