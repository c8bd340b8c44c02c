"""Runs pip quietly, with its output in a log, and says in one sentence when it could not reach the index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from steps import CommandFailed, Trouble, run, show_tail

# What pip and urllib3 write when it is the network, not the package, that is missing.
UNREACHABLE = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "ConnectTimeoutError",
    "Connection refused",
    "Connection timed out",
    "Read timed out",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "ProxyError",
    "(from versions: none)",  # all that pip says without retries; a locked package does exist
)

# Settings of the caller's shell that would send packages elsewhere than into the venv.
_MISLEADING = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _MISLEADING}


def pip(python: Path, arguments: Sequence[str], log: Path) -> None:
    """`python -m pip ARGUMENTS`. Raises Trouble, after the log's last lines, when pip fails."""
    command: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    try:
        run(command, log, env=environment())
    except CommandFailed as failure:
        if any(sign in failure.output for sign in UNREACHABLE):
            raise Trouble(
                "the package index cannot be reached: check the network or set PIP_INDEX_URL, then try again "
                f"(pip's words are in {log})"
            ) from None
        show_tail(log)
        raise Trouble(f"pip {arguments[0]} failed: read {log}, mend what it names, then try again") from None
