"""Logging: readable lines on a terminal, priorities for journald otherwise, one line per answered request.

The last lines are kept in memory besides, for people who cannot reach the box (`tail`).
"""

import logging
import os
import sys
from collections import deque
from contextlib import nullcontext
from typing import TextIO

from agent.answer import Answer
from agent.config import Log
from agent.request import Failed, Finished

requests = logging.getLogger("tampu.request")
prompts = logging.getLogger("tampu.prompt")

# syslog priorities, which journald reads from a `<n>` at the line's start.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


# What the ring keeps at most: lines, bytes of all of them, and bytes of one.
MAX_LINES = 500
MAX_BYTES = 200 << 10
MAX_LINE_BYTES = 2048


class _OneLineFormatter(logging.Formatter):
    """Device text in a message can neither begin a new line nor move the terminal's cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _JournalFormatter(_OneLineFormatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", "\n    ")
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}"


class Ring(logging.Handler):
    """Keeps the last lines, the oldest of which go first. Its lock is the handler's own."""

    def __init__(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self.setFormatter(
            _OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        self._lines: deque[tuple[str, int, bool]] = deque()
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._num_bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a record says; a traceback is several lines."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted: stderr's handler complains of it
            return
        for line in text.split("\n"):
            self._keep(line, is_prompt=record.name == prompts.name)

    def tail(self, n: int, *, has_prompts: bool = True) -> tuple[str, ...]:
        """The last `n` lines, oldest first; without `has_prompts` those with prompts are left out."""
        with self.lock or nullcontext():
            wanted = [line for line, _, is_prompt in self._lines if has_prompts or not is_prompt]
        return tuple(wanted[-n:]) if n > 0 else ()

    def _keep(self, line: str, *, is_prompt: bool) -> None:
        data = line.encode("utf-8", "replace")
        if len(data) > MAX_LINE_BYTES:
            line = data[:MAX_LINE_BYTES].decode("utf-8", "ignore") + "..."
        size = min(len(data), MAX_LINE_BYTES + 3)
        self._lines.append((line, size, is_prompt))
        self._num_bytes += size
        while len(self._lines) > self._max_lines or self._num_bytes > self._max_bytes:
            self._num_bytes -= self._lines.popleft()[1]


_ring = Ring()


def tail(n: int, *, has_prompts: bool = True) -> tuple[str, ...]:
    """The last `n` lines of this process's log, oldest first, 500 at most.

    Prompts are among them where `log.prompts` is on and `has_prompts` is not False.
    """
    return _ring.tail(n, has_prompts=has_prompts)


def set_up(config: Log) -> None:
    """Send all logs to stderr in the form its reader likes, and keep the last lines."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty() or "JOURNAL_STREAM" not in os.environ:
        handler.setFormatter(_OneLineFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler, _ring]
    root.setLevel(config.level.upper())
    # What people ask is their own: it is written only where the configuration says so.
    prompts.disabled = not config.prompts
    # Per-connection chatter of the libraries helps nobody here.
    for name in ("uvicorn", "watchdog", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_coloured(out: TextIO) -> bool:
    """May what is written there be coloured: a terminal, and nobody who asked for none (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def log_answer(front: str, answer: Answer) -> None:
    """The one line about an ended request: who, how it ended, tokens, and where the time went."""
    who = f"{front} {answer.request.client}/{answer.request.id}"
    prompts.info("%s %r -> %r", who, answer.request.messages[-1].content, answer.text)
    match answer.terminal:
        case Finished(finish_reason, usage, timings):
            requests.info(
                "%s %s prompt=%d cached=%d completion=%d queue=%.3fs prefill=%.3fs decode=%.3fs tok/s=%.1f",
                who,
                finish_reason.value,
                usage.prompt,
                usage.cached,
                usage.completion,
                timings.queue_s,
                timings.prefill_s,
                timings.decode_s,
                (usage.completion - 1) / timings.decode_s
                if timings.decode_s > 0 and usage.completion > 1
                else 0.0,
            )
        case Failed(code, message, _):
            requests.info("%s %s: %s", who, code, message)
