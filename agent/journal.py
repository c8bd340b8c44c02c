"""What was asked and how it ended, so that each id is answered once. Kept in memory, bounded.

A duplicate of a live request is told so again; one of a finished request gets the same terminal
frame, byte for byte; the same id with another payload is a conflict.
"""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from agent.errors import IdConflict

MAX_ENTRIES = 4096
# Longer than a broker keeps our session (600 s) and any request may live.
KEEP_S = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Final:
    """One terminal publish; `suffix` is put after the request's reply topic."""

    payload: bytes
    suffix: str = ""


@dataclass(slots=True)
class Entry:
    """One request; `terminal` holds its last frames (one, or chunks and `done`) once they are known."""

    digest: bytes
    terminal: tuple[Final, ...] | None = None
    seen_at: float = field(default_factory=time.monotonic)


class Journal:
    """Entries by (client, id). The oldest finished ones go first; live ones never."""

    def __init__(self, max_entries: int = MAX_ENTRIES, keep_s: float = KEEP_S) -> None:
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._max_entries = max_entries
        self._keep_s = keep_s

    def find(self, client: str, request_id: str, payload: bytes) -> Entry | None:
        """The entry of an earlier request with this id and payload. Raises IdConflict for another payload."""
        entry = self._entries.get((client, request_id))
        if entry is not None and entry.digest != _digest(payload):
            raise IdConflict(f"id {request_id!r} was used by another request of this client; send a new id")
        return entry

    def open(self, client: str, request_id: str, payload: bytes) -> Entry:
        """Note an accepted request."""
        self._forget_old()
        entry = self._entries[client, request_id] = Entry(_digest(payload))
        return entry

    def drop(self, client: str, request_id: str) -> None:
        """Forget a request that was not accepted after all, so that it may be tried again."""
        self._entries.pop((client, request_id), None)

    def _forget_old(self) -> None:
        horizon = time.monotonic() - self._keep_s
        for key, entry in list(self._entries.items()):
            if entry.seen_at > horizon and len(self._entries) < self._max_entries:
                return
            if entry.terminal is not None:
                del self._entries[key]


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()
