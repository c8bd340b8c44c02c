"""How many prompt tokens one step may carry while others are streaming.

A prefill chunk stalls every running stream for as long as it takes, so its size follows the
measured speed: about STALL_S of work. With nobody to stall it may take ALONE_S, so that a cancel
and the next request are seen within a second on the slowest board.
"""

STALL_S = 0.1
ALONE_S = 1.0
# Small enough for the slowest board's first chunk, before anything is measured.
FIRST_ROWS = 16
MIN_ROWS = 8
# Weight of the newest step in the moving average; steps are noisy on a busy box.
SMOOTHING = 0.3


class PrefillPace:
    """A moving average of prefill rows per second, from the steps that carried prompt tokens."""

    def __init__(self) -> None:
        self._rows_per_s: float | None = None

    def observe(self, num_rows: int, seconds: float) -> None:
        """Take one finished step into account: all its rows, and how long it took."""
        if num_rows < MIN_ROWS or seconds <= 0:
            return
        rate = num_rows / seconds
        if self._rows_per_s is None:
            self._rows_per_s = rate
        self._rows_per_s += SMOOTHING * (rate - self._rows_per_s)

    def rows(self, *, streams_wait: bool, n_batch: int) -> int:
        """The most prompt tokens for the next step."""
        if self._rows_per_s is None:
            return min(FIRST_ROWS, n_batch)
        seconds = STALL_S if streams_wait else ALONE_S
        return max(MIN_ROWS, min(n_batch, int(self._rows_per_s * seconds)))
