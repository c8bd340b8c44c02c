"""The journal: accepted requests and their terminal frames. None is lost, and each id is answered once.

The index in memory is the truth; a file mirrors it (mirror.py), so that nothing here waits for a
disk but `start`, `committed`, `finals` and `close`. A duplicate of a live request is told so again; one of
a finished request gets the same terminal frames, byte for byte; the same id with another payload is a
conflict.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent import config
from agent.errors import Expired, IdConflict
from agent.findings import Finding
from agent.journal.changes import Changes
from agent.journal.clock import Clock
from agent.journal.entry import Entry, EntryState, Final, Part, Recovered
from agent.journal.index import Index
from agent.journal.mirror import Mirror
from agent.journal.notes import MAX_NOTE_BYTES, MAX_NOTES, Notes

if TYPE_CHECKING:
    from agent.journal.rows import Loaded

__all__ = ["Entry", "EntryState", "Final", "Journal", "Recovered"]

# How long a broker keeps our session, and a little more: so long after its end a request may come again.
SESSION_EXPIRY_S = 600.0
SLACK_S = 60.0


class Journal:
    """Entries by (client, id). All methods are called on the loop.

    `longest_ttl_s` is how long a request may live at most. `on_findings` is called when `findings` has
    changed. Notes are bounded in number and, together, in bytes.
    """

    def __init__(
        self,
        settings: config.Journal,
        *,
        longest_ttl_s: float,
        on_findings: Callable[[], None] = lambda: None,
        root: Path = Path("/"),
        clock: Clock | None = None,
        max_notes: int = MAX_NOTES,
        max_note_bytes: int = MAX_NOTE_BYTES,
    ) -> None:
        self._keep_s = max(settings.keep_s, SESSION_EXPIRY_S + longest_ttl_s + SLACK_S)
        self._is_off = settings.mode == "off"
        self._clock = clock or Clock(root)
        self._index = Index(settings.max_rows, settings.max_bytes)
        self._notes = Notes(max_notes, max_note_bytes)
        self._last_seq = 0
        self._mirror: Mirror | None = None
        if settings.mode == "disk":
            folder = Path(settings.folder)
            self._changes = Changes(self._index, self._notes, self._clock)
            self._mirror = Mirror(folder, self._changes, self._clock, on_findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the disk: while it lasts, or what was lost since the start."""
        return self._mirror.findings if self._mirror else ()

    def is_alive(self) -> bool:
        """Whether the journal's thread has answered lately."""
        return self._mirror is None or self._mirror.is_alive()

    async def start(self) -> tuple[Recovered, ...]:
        """Open or create the file. Returns what was live, and what has ended and was not delivered, in order
        of arrival. The `run` of live ones has grown by one, and that is on disk."""
        if self._mirror is None:
            return ()
        if loaded := await self._mirror.open():
            self._adopt(loaded)
        await self._mirror.run_first()
        recovered = tuple(self._recovered(entry) for entry in self._index if _is_unfinished(entry))
        for one in recovered:
            if one.finals:
                self._changes.keep_resident(one.entry)
        return recovered

    async def close(self) -> None:
        """Write what is not written yet, for a bounded time, and let go of the file."""
        for entry in self._index.live:
            if entry.deadline is not None:
                # A planned end knows how long they have left.
                self._mark(entry, Part.ROW)
        if self._mirror:
            await self._mirror.close()

    # ---- requests ----------------------------------------------------------------------------

    def find(self, client: str, request_id: str, payload: bytes) -> Entry | None:
        """The entry of an earlier request with this id and payload. Raises IdConflict for another payload."""
        entry = self.peek(client, request_id)
        if entry is not None and entry.digest != _digest(payload):
            raise IdConflict(f"id {request_id!r} was used by another request of this client; send a new id")
        return entry

    def peek(self, client: str, request_id: str) -> Entry | None:
        """The entry of this id, whatever its payload was."""
        return self._index.get((client, request_id))

    def open(
        self, client: str, request_id: str, payload: bytes, *, intent: bytes, ttl_s: float | None
    ) -> Entry:
        """Note an accepted request: `intent` is what running it again needs, `ttl_s` how long it may live."""
        if older := self.peek(client, request_id):
            self._forget(older)
        self._shed(num_new=1)
        self._last_seq += 1
        now = self._clock.now()
        entry = Entry(
            client=client,
            id=request_id,
            digest=_digest(payload),
            intent=intent,
            seq=self._last_seq,
            deadline=None if ttl_s is None else now + ttl_s,
            touched_at=now,
            num_intent_bytes=len(intent),
        )
        self._index.add(entry)
        self._mark(entry, Part.ROW | Part.INTENT)
        return entry

    def remaining_s(self, entry: Entry) -> float | None:
        """How long the request may still live, 0 or less when its time is over; None has no deadline."""
        return None if entry.deadline is None else entry.deadline - self._clock.now()

    async def committed(self, entry: Entry) -> None:
        """Wait until the last change of this entry is on disk, or is kept as well as can be."""
        if self._mirror:
            await self._mirror.committed(entry)

    def change_intent(self, entry: Entry, intent: bytes) -> None:
        """Another intent, while the request lives: the reply route of a duplicate is newer."""
        if entry.state is EntryState.LIVE and not entry.is_gone:
            entry.intent = intent
            self._index.change(entry, intent_bytes=len(intent))
            self._mark(entry, Part.INTENT)

    def mark_alone(self, entry: Entry, is_alone: bool) -> None:
        """It is computed with nothing beside it, or no longer. Await `committed` before it begins."""
        if entry.is_alone is not is_alone and not entry.is_gone:
            entry.is_alone = is_alone
            self._mark(entry, Part.ROW)

    def end(self, entry: Entry, finals: tuple[Final, ...]) -> None:
        """The request has this result. Notes that were kept for it are written in the same transaction."""
        if entry.state is not EntryState.LIVE or entry.is_gone:
            return
        entry.touched_at = self._clock.now()
        self._index.change(entry, state=EntryState.ENDED, frames=finals)
        if not self._mirror:
            self._index.change(entry, intent_bytes=0)
            entry.intent = b""
        self._notes.release(entry.seq)
        self._mark(entry, Part.ROW | Part.FRAMES)
        self._shed()

    async def finals(self, entry: Entry) -> tuple[Final, ...]:
        """The terminal frames of a request that has ended. Raises Expired when they have gone."""
        frames = entry.frames
        if frames is None and entry.has_text and self._mirror and not entry.is_gone:
            frames = await self._mirror.read(entry)
        if self._is_off and entry.state is not EntryState.LIVE:
            self._forget(entry)
        if frames is None:
            raise Expired(f"id {entry.id!r} was answered and its text has gone; ask again with a new id")
        return frames

    def delivered(self, entry: Entry) -> None:
        """The broker has acknowledged the terminal frames."""
        if entry.state is not EntryState.ENDED or entry.is_gone:
            return
        if self._is_off:
            self._forget(entry)
            return
        entry.touched_at = self._clock.now()
        self._index.change(entry, state=EntryState.DELIVERED, intent_bytes=0)
        # Nobody needs it any more, even where a disk that fails never has it.
        entry.intent = b""
        self._mark(entry, Part.ROW | Part.INTENT, is_urgent=False)

    def drop(self, entry: Entry) -> None:
        """Forget a request that was not accepted after all, so that it may be tried again."""
        self._forget(entry, is_urgent=True)

    # ---- notes -------------------------------------------------------------------------------

    def note(self, name: str, value: bytes | None, *, of: tuple[str, str] | None = None) -> None:
        """Keep a small value under a name; None removes it. Written within seconds, or, if `of` is the
        (client, id) of a live request, in one transaction with its end. Of too many the oldest go."""
        holder = self._index.get(of) if of else None
        if holder is not None and holder.state is EntryState.LIVE:
            self._notes.note(name, value, holder.seq)
        else:
            self._notes.note(name, value)
        if self._mirror and self._notes.is_dirty:
            self._mirror.touch(is_urgent=False)

    def notes(self, prefix: str) -> dict[str, bytes]:
        """The values under names that begin with `prefix`: as the start has found them, and newer ones."""
        return self._notes.all(prefix)

    # ---- within ------------------------------------------------------------------------------

    def _mark(self, entry: Entry, parts: Part, *, is_urgent: bool = True) -> None:
        if self._mirror:
            self._mirror.mark(entry, parts, is_urgent=is_urgent)

    def _forget(self, entry: Entry, *, is_urgent: bool = False) -> None:
        if entry.is_gone:
            return
        self._index.remove(entry)
        self._notes.release(entry.seq)
        if self._mirror:
            self._mirror.forget(entry, is_urgent=is_urgent)
        entry.is_gone = True

    def _shed(self, num_new: int = 0) -> None:
        """Keep the bounds: rows, age and bytes."""
        for entry in self._index.surplus(self._clock.now() - self._keep_s, num_new):
            self._forget(entry)
        for entry in self._index.too_large():
            self._index.lose_text(entry)
            self._mark(entry, Part.INTENT | Part.FRAMES, is_urgent=False)

    def _adopt(self, loaded: "Loaded") -> None:
        self._last_seq = loaded.max_seq
        self._notes.load(loaded.notes)
        self._changes.remove_rows(loaded.gone)
        for entry in loaded.entries:
            self._index.add(entry)
            if entry.state is EntryState.LIVE:
                entry.run += 1
                self._mark(entry, Part.ROW)
        self._shed()

    def _recovered(self, entry: Entry) -> Recovered:
        return Recovered(entry, self.remaining_s(entry), entry.frames or ())


def _is_unfinished(entry: Entry) -> bool:
    return entry.state is EntryState.LIVE or (entry.state is EntryState.ENDED and entry.frames is not None)


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()
