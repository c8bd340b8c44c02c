"""How many prompt tokens one step may carry while others are streaming.

A prefill chunk stalls every running stream for as long as it takes, so its size follows the measured
speed: what it adds to a step is about STALL_S. With nobody to stall it may take ALONE_S, so that a
cancel and the next request are seen within a second on the slowest board.

What a prompt's row adds beside streams is not what it costs alone, so both are measured, the first as
what a step took beyond the same streams' steps without a prompt. And rows in bulk cost half of what
they cost in small chunks: ggml's attention, for one, has another path from BULK_ROWS on. When several
prompts wait, which is what a fleet that reconnects looks like, a step may therefore take HERD_S if it
gets that far in it: fewer and longer pauses, and half the time until everybody streams.
"""

STALL_S = 0.1
HERD_S = 0.35
ALONE_S = 1.0
BULK_ROWS = 64
# Small enough for the slowest board's first chunk, before anything is measured.
FIRST_ROWS = 16
MIN_ROWS = 8
# Weight of the newest step in the moving averages; steps are noisy on a busy box.
SMOOTHING = 0.3
# What rows add is a difference of two noisy times: between free and as dear as alone, it is believed.
CHEAPEST = 0.25


class PrefillPace:
    """Moving averages, in seconds: of a row in bulk and beside streams, and of streams' own steps."""

    def __init__(self) -> None:
        self._bulk_s: float | None = None
        self._beside_s: float | None = None
        self._streams_s: dict[int, float] = {}

    def observe(self, num_prefill: int, num_streams: int, seconds: float) -> None:
        """Take one finished step into account: its prompt rows, its streams' rows, and how long it took."""
        if seconds <= 0:
            return
        num_rows = num_prefill + num_streams
        if num_prefill == 0:
            self._streams_s[num_streams] = _blend(self._streams_s.get(num_streams), seconds)
        elif num_prefill < MIN_ROWS:
            return
        elif num_streams == 0 or num_rows >= BULK_ROWS:
            self._bulk_s = _blend(self._bulk_s, seconds / num_rows)
        else:
            added_s = seconds - self._streams_s.get(num_streams, 0.0)
            rows = num_prefill if num_streams in self._streams_s else num_rows
            self._beside_s = _blend(self._beside_s, max(added_s / rows, CHEAPEST * seconds / num_rows))

    def rows(self, num_streams: int, num_prompts: int, n_batch: int) -> int:
        """The most prompt tokens for the next step, of so many prompts and beside so many streams."""
        row_s = self._beside_s or self._bulk_s if num_streams else self._bulk_s
        if row_s is None:
            return min(FIRST_ROWS, n_batch)
        count = int((STALL_S if num_streams else ALONE_S) / row_s)
        if num_streams and num_prompts > 1 and self._bulk_s is not None:
            in_bulk = int(HERD_S / self._bulk_s)
            count = max(count, in_bulk - num_streams if in_bulk >= BULK_ROWS else 0)
        return max(MIN_ROWS, min(n_batch, count))


def _blend(average: float | None, newest: float) -> float:
    return newest if average is None else average + SMOOTHING * (newest - average)
