"""Small named values that outlive the daemon: a conversation, the last crash."""

from typing import Protocol

# Together, where nobody says more; the oldest names go.
MAX_NOTES = 256
MAX_NOTE_BYTES = 1 << 20


class Notebook(Protocol):
    """What those need of the journal who keep small values over restarts."""

    def note(self, name: str, value: bytes | None) -> None: ...

    def notes(self, prefix: str) -> dict[str, bytes]: ...


class Notes:
    """Values by name. One that is held for an entry is written together with that entry's end."""

    def __init__(self, max_names: int = MAX_NOTES, max_bytes: int = MAX_NOTE_BYTES) -> None:
        self._max_names = max_names
        self._max_bytes = max_bytes
        self._values: dict[str, bytes] = {}
        self._num_bytes = 0
        self._held: dict[int, dict[str, bytes | None]] = {}
        self._dirty: set[str] = set()
        # Names that are on disk or on their way: only these need a word when they go.
        self._on_disk: set[str] = set()
        self._flying: set[str] = set()

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty)

    def load(self, values: dict[str, bytes]) -> None:
        """What the disk had, the oldest first."""
        self._on_disk |= values.keys()
        for name, value in values.items():
            self._put(name, value)
            if name in self._values:
                self._dirty.discard(name)

    def note(self, name: str, value: bytes | None, holder: int | None = None) -> None:
        """Keep a value, for now or with the end of the entry `holder`; None removes it."""
        if holder is None:
            self._put(name, value)
            return
        held = self._held.setdefault(holder, {})
        held.pop(name, None)
        held[name] = value
        while self._is_much_held():
            self.release(next(iter(self._held)))

    def release(self, holder: int) -> bool:
        """The entry has ended, or is no more: its notes are to be written. True if there were any."""
        held = self._held.pop(holder, {})
        for name, value in held.items():
            self._put(name, value)
        return bool(held)

    def all(self, prefix: str) -> dict[str, bytes]:
        """The values under names that begin with `prefix`, held ones included."""
        values: dict[str, bytes | None] = dict(self._values)
        for held in self._held.values():
            values.update(held)
        return {
            name: value for name, value in values.items() if value is not None and name.startswith(prefix)
        }

    def take(self) -> dict[str, bytes | None]:
        """What is to be written now."""
        removed = {name: None for name in self._dirty if name not in self._values}
        # In the order of their age, which the disk keeps.
        changed = {name: value for name, value in self._values.items() if name in self._dirty}
        self._dirty.clear()
        self._flying = set(changed)
        return {**removed, **changed}

    def settle(self, taken: dict[str, bytes | None], *, is_written: bool) -> None:
        """What was taken is on disk, or has to be taken again."""
        self._flying.clear()
        if is_written:
            self._on_disk |= taken.keys()
            self._on_disk -= {name for name, value in taken.items() if value is None}
            return
        for name in taken:
            if name in self._values or name in self._on_disk:
                self._dirty.add(name)
            else:
                self._dirty.discard(name)

    def begin_anew(self) -> None:
        """The disk has nothing any more."""
        self._on_disk.clear()
        self._dirty = set(self._values)

    def _put(self, name: str, value: bytes | None) -> None:
        self._remove(name)
        if value is None or len(name) + len(value) > self._max_bytes:
            return
        self._values[name] = value
        self._num_bytes += len(name) + len(value)
        self._dirty.add(name)
        while len(self._values) > self._max_names or self._num_bytes > self._max_bytes:
            self._remove(next(iter(self._values)))

    def _remove(self, name: str) -> None:
        value = self._values.pop(name, None)
        if value is not None:
            self._num_bytes -= len(name) + len(value)
        self._dirty.discard(name)
        if name in self._on_disk or name in self._flying:
            self._dirty.add(name)

    def _is_much_held(self) -> bool:
        sizes = [
            len(name) + len(value or b"") for held in self._held.values() for name, value in held.items()
        ]
        return len(sizes) > self._max_names or sum(sizes) > self._max_bytes
