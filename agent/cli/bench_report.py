"""What `tampu bench` shows: the bar while it measures, and the figures afterwards."""

from typing import TextIO

from msgspec import Struct

from agent.catalog.measurements import Measurements, Speed

BAR_CELLS = 30
LABEL_CELLS = 40


class Report(Struct, frozen=True, kw_only=True):
    """What `bench --json` prints. `kept` is the file with the measurements, empty if they were not
    kept."""

    name: str
    quant: str
    file: str
    measurements: Measurements
    best: Speed | None
    notes: tuple[str, ...]
    kept: str


def render(report: Report, cpu: str) -> str:
    """The screen: memory, the ways in a table, the best marked, and what is doubtful."""
    measured = report.measurements
    lines = [f"{' '.join((report.name, report.quant)).strip()} on {cpu}, {measured.build}", ""]
    lines += [
        f"{'memory' if not index else '':<8}{_count(read.n_threads):<12}{read.bytes_s / 1e9:6.1f} GB/s read"
        for index, read in enumerate(sorted(measured.bandwidths, key=lambda read: read.n_threads))
    ]
    lines += ["", *_table(measured, report.best), ""]
    lines += [f"note: {note}" for note in report.notes]
    lines.append(
        f"measured in {measured.seconds:.0f} s" + (f", kept in {report.kept}" if report.kept else "")
    )
    return "\n".join(lines)


def _table(measured: Measurements, best: Speed | None) -> list[str]:
    rows = [("", "WAY", "THREADS", "DECODE tok/s", "ROWS", "PREFILL tok/s")]
    last = None
    for speed in sorted(measured.speeds, key=_order):
        # A way and its decode once, the sizes of its prefill below each other.
        head = (_way_name(speed), str(speed.n_threads), f"{speed.decode_tok_s:.1f}")
        mark = "*" if speed == best else ""
        shown = head if head != last else ("", "", "")
        rows.append((mark, *shown, str(speed.n_batch), f"{speed.prefill_tok_s:.1f}"))
        last = head
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [[cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)] for row in rows]
    numbers = [[cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)] for row in rows]
    lines = ["  ".join((*left, *right)).rstrip() for left, right in zip(words, numbers, strict=True)]
    return [*lines, "* answers a usual request soonest"]


def _order(speed: Speed) -> tuple[str, bool, int, int]:
    return speed.device, speed.is_repacked, speed.n_threads, speed.n_batch


def _way_name(speed: Speed) -> str:
    """The weights mapped, their repacked copy, or a GPU."""
    return speed.device or ("repacked" if speed.is_repacked else "evictable")


class Bar:
    """Draws progress: one line that is redrawn on a terminal, else a line per step."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._is_drawn = False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_drawn:
            print(file=self._out)

    def __call__(self, share: float, what: str) -> None:
        """Show that `share` (0 to 1) is done and what comes next."""
        if not self._is_terminal:
            print(f"{share:4.0%} {what}", file=self._out, flush=True)
            return
        bar = ("#" * int(share * BAR_CELLS)).ljust(BAR_CELLS, ".")
        label = what[:LABEL_CELLS].ljust(LABEL_CELLS)
        print(f"\r[{bar}] {share:4.0%} {label}", end="", file=self._out, flush=True)
        self._is_drawn = True


def _count(n_threads: int) -> str:
    return f"{n_threads} thread{'s' * (n_threads > 1)}"
