"""How a build script talks: a line per step, the output in a log, one sentence when something is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LABEL_WIDTH = 26
BAR_WIDTH = 30
LOG_TAIL_LINES = 15
LOG_LINE_WIDTH = 160  # compilers are called with lines of thousands

_NINJA_LINE = re.compile(r"\s*\[(\d+)/(\d+)\] ")


class Trouble(Exception):
    """One sentence for the person at the keyboard; it ends in the command that mends it."""


class CommandFailed(Exception):
    """A command ended with a non-zero status; its output is in `log`."""

    def __init__(self, status: int, log: Path) -> None:
        super().__init__(f"exit status {status}, see {log}")
        self.status = status
        self.log = log

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


def say(text: str) -> None:
    print(text, flush=True)


def show_tail(log: Path, before: str = "") -> None:
    """The last lines of a log (or those before a word) on stderr, ahead of the sentence about them."""
    text = log.read_text(errors="replace")
    for line in (text.partition(before)[0] if before else text).splitlines()[-LOG_TAIL_LINES:]:
        print(f"  | {line[:LOG_LINE_WIDTH]}", file=sys.stderr)


def say_done(label: str, seconds: float) -> None:
    """A step's line, for a step whose own output was on the terminal."""
    say(f"  {label:<{LABEL_WIDTH}}{duration(seconds)}")


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


@contextmanager
def step(label: str) -> Iterator[Progress]:
    """Print a step with its duration once it is done; on a terminal its line stands there from the start."""
    progress = Progress(label)
    yield progress
    progress.done()


class Progress:
    """One step's line: rewritten in place on a terminal, a plain line every tenth of the way elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._started = time.monotonic()
        self._tenths_told = 0
        self._live = sys.stdout.isatty()
        self._rewrite("...")

    def watch_ninja(self, line: str) -> None:
        """Follow the counters that ninja prints in front of every command: `[12/83] c++ ...`."""
        if match := _NINJA_LINE.match(line):
            self._show(int(match[1]), int(match[2]))

    def done(self) -> None:
        self._rewrite(self._elapsed())
        say("" if self._live else self._line(self._elapsed()))

    def _show(self, finished: int, total: int) -> None:
        filled = BAR_WIDTH * finished // total
        self._rewrite(f"[{'#' * filled:<{BAR_WIDTH}}] {finished}/{total}  {self._elapsed()}")
        tenths = 10 * finished // total
        if not self._live and self._tenths_told < tenths < 10:
            self._tenths_told = tenths
            say(self._line(f"{tenths}0 % ({finished}/{total}, {self._elapsed()})"))

    def _rewrite(self, text: str) -> None:
        if self._live:
            print(f"\r\x1b[K{self._line(text)}", end="", flush=True)

    def _line(self, text: str) -> str:
        return f"  {self._label:<{LABEL_WIDTH}}{text}"

    def _elapsed(self) -> str:
        return duration(time.monotonic() - self._started)


def run(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a command with its output in `log`; `on_line` sees every line as it comes. Raises CommandFailed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # A process group of its own: when we are told to stop, the compilers below pip stop as well.
    with (
        log.open("w") as out,
        subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                out.write(line)
                on_line(line)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        raise CommandFailed(process.returncode, log)
