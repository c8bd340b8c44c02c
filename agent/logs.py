"""Logging: readable lines on a terminal, priorities for journald otherwise, one line per answered request."""

import logging
import os
import sys
from typing import TextIO

from agent.answer import Answer
from agent.config import Log
from agent.request import Failed, Finished

requests = logging.getLogger("tampu.request")
prompts = logging.getLogger("tampu.prompt")

# syslog priorities, which journald reads from a `<n>` at the line's start.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _OneLineFormatter(logging.Formatter):
    """Device text in a message can neither begin a new line nor move the terminal's cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _JournalFormatter(_OneLineFormatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", "\n    ")
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}"


def set_up(config: Log) -> None:
    """Send all logs to stderr in the form its reader likes."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty() or "JOURNAL_STREAM" not in os.environ:
        handler.setFormatter(_OneLineFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
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
