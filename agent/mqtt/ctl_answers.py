"""What operators are told, one struct for each verb, each small enough for one publish.

`info` and `health` answer as on the topics of those names (info.py, frames.py).
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from agent.errors import TooLarge
from agent.findings import Finding
from agent.fitting import fitted
from agent.model_list import ModelHere


class ModelsAnswer(Struct, frozen=True):
    """The model files of this box; `left_out` more did not fit."""

    models: tuple[ModelHere, ...]
    left_out: int = 0


class DoctorAnswer(Struct, frozen=True):
    """What is to be mended, the worst first; `left_out` more did not fit."""

    findings: tuple[Finding, ...]
    num_errors: int
    num_warnings: int
    left_out: int = 0


class LogAnswer(Struct, frozen=True):
    """The last lines of the log, oldest first; `left_out` older ones did not fit."""

    lines: tuple[str, ...]
    left_out: int = 0


class ChosenAnswer(Struct, frozen=True):
    """The model that is loaded from now on; `why` are the reasons of the choice. `status` and `info` tell
    when it answers."""

    name: str
    quant: str
    runs: str
    why: tuple[str, ...] = ()
    left_out: int = 0


def whole(content: bytes, max_bytes: int) -> bytes:
    """An answer that has no list to shorten. Raises TooLarge where it does not fit."""
    if len(content) > max_bytes:
        raise _too_large(len(content), max_bytes)
    return content


def shortened(make: Callable[[int], Struct], num_items: int, max_bytes: int) -> bytes:
    """The JSON of `make(n)` for the largest n up to `num_items` that fits. Raises TooLarge if none does."""
    content = fitted(lambda n: msgspec.json.encode(make(n)), num_items, max_bytes)
    if content is None:
        raise _too_large(len(msgspec.json.encode(make(0))), max_bytes)
    return content


def _too_large(num_bytes: int, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the answer has {num_bytes} bytes, and the broker takes {max_bytes}; let it take larger packets"
    )
