"""Progress on a terminal: one line that is redrawn, and a line per quarter where nobody watches."""

from typing import TextIO

BAR_CELLS = 30


class Meter:
    """Draws progress; called with bytes done, bytes in all and what is being done."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._label = ""
        self._shown = -1

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal and self._label:
            print(file=self._out)

    def __call__(self, done_bytes: int, total_bytes: int, label: str) -> None:
        percent = 100 * done_bytes // max(total_bytes, 1)
        shown = percent if self._is_terminal else percent // 25 * 25
        if (label, shown) == (self._label, self._shown):
            return
        if self._is_terminal:
            self._redraw(percent, total_bytes, label)
        else:
            print(f"{label}: {shown} % of {megabytes(total_bytes)}", file=self._out, flush=True)
        self._label, self._shown = label, shown

    def _redraw(self, percent: int, total_bytes: int, label: str) -> None:
        start = "\n" if self._label and label != self._label else "\r"
        bar = ("#" * (percent * BAR_CELLS // 100)).ljust(BAR_CELLS, ".")
        line = f"{label:<12} [{bar}] {percent:3} % of {megabytes(total_bytes)}"
        print(start + line, end="", file=self._out, flush=True)


def megabytes(size: int) -> str:
    """Bytes for people: 98.4 MB."""
    return f"{size / 1e6:.1f} MB"
