"""What of the journal is not on disk yet: gathered, taken as one batch, and settled when that is written."""

from collections import deque

from agent.journal.clock import Clock
from agent.journal.entry import Batch, Entry, EntryState, Part, Row
from agent.journal.index import Index
from agent.journal.notes import Notes

# A live row's remaining seconds are written again with the next transaction when they are so old.
STALE_S = 30.0
# Terminal frames that wait for their acknowledgement are kept in memory besides, up to so much.
RESIDENT_BYTES = 1 << 20

_NOTHING = Part(0)


class Changes:
    """Marks, one for each entry however often it changes. One batch at a time is under way."""

    def __init__(self, index: Index, notes: Notes, clock: Clock) -> None:
        self._index = index
        self._notes = notes
        self._clock = clock
        self._dirty: dict[Entry, Part] = {}
        self._gone: set[int] = set()
        self._flying = Batch()
        self._resident: deque[tuple[Entry, int]] = deque()
        self._num_resident_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._dirty or self._gone or self._notes.is_dirty)

    def __contains__(self, entry: Entry) -> bool:
        """Whether the disk does not have the entry as it is."""
        return entry in self._dirty or entry in self._flying.parts

    def mark(self, entry: Entry, parts: Part) -> None:
        """These parts of the entry are to be written."""
        self._dirty[entry] = self._dirty.get(entry, _NOTHING) | parts

    def forget(self, entry: Entry) -> bool:
        """The entry is no more. False when it never reached the disk, which then need not be told."""
        entry.is_gone = True
        self._dirty.pop(entry, None)
        if not entry.is_on_disk and entry not in self._flying.parts:
            return False
        self._gone.add(entry.seq)
        return True

    def remove_rows(self, seqs: set[int]) -> None:
        """Rows that belong to no entry."""
        self._gone |= seqs

    def take(self) -> Batch:
        """All that changed, as values."""
        now = self._clock.now()
        for entry in self._index.live:
            if entry.deadline is not None and now - entry.stored_at > STALE_S:
                self.mark(entry, Part.ROW)
        batch = Batch(parts=self._dirty, gone=list(self._gone), notes=self._notes.take())
        self._dirty, self._gone, self._flying = {}, set(), batch
        for entry, parts in batch.parts.items():
            self._put(entry, parts, batch, now)
        return batch

    def settle(self, *, is_written: bool) -> None:
        """What was taken is on disk, or it is marked again."""
        batch, self._flying = self._flying, Batch()
        self._notes.settle(batch.notes, is_written=is_written)
        if not is_written:
            self._gone |= set(batch.gone)
        for entry, parts in batch.parts.items():
            if is_written:
                entry.is_on_disk = True
                self._lighten(entry)
            elif not entry.is_gone:
                self.mark(entry, parts)
            elif not entry.is_on_disk:
                self._gone.discard(entry.seq)

    def begin_anew(self) -> None:
        """The disk has nothing of ours. What is in memory is written again, the rest is lost."""
        self._gone.clear()
        self._notes.begin_anew()
        for entry in self._index:
            entry.is_on_disk = False
            if entry.state is not EntryState.LIVE and entry.frames is None:
                self._index.lose_text(entry)
            self.mark(entry, Part.ROW | Part.INTENT | Part.FRAMES)

    def keep_resident(self, entry: Entry) -> None:
        """Its frames are on disk and stay in memory for a while: newer ones push them out."""
        self._resident.append((entry, entry.num_frame_bytes))
        self._num_resident_bytes += entry.num_frame_bytes
        while self._num_resident_bytes > RESIDENT_BYTES:
            oldest, num_bytes = self._resident.popleft()
            self._num_resident_bytes -= num_bytes
            if not self._is_dirty(oldest, Part.FRAMES):
                oldest.frames = None

    def _lighten(self, entry: Entry) -> None:
        """What is on disk need not be in memory: no intent after the end, no frames after delivery."""
        if entry.state is EntryState.LIVE:
            return
        if not self._is_dirty(entry, Part.INTENT):
            entry.intent = b""
        if entry.frames is None or self._is_dirty(entry, Part.FRAMES):
            return
        if entry.state is EntryState.DELIVERED:
            entry.frames = None
        else:
            self.keep_resident(entry)

    def _is_dirty(self, entry: Entry, part: Part) -> bool:
        return bool(self._dirty.get(entry, _NOTHING) & part)

    def _put(self, entry: Entry, parts: Part, batch: Batch, now: float) -> None:
        entry.stored_at = now
        batch.rows.append(self._row(entry, now))
        if parts & Part.INTENT:
            # One that has left memory is lost with the file it was in.
            is_here = len(entry.intent) == entry.num_intent_bytes
            is_kept = is_here and entry.state is not EntryState.DELIVERED
            batch.intents.append((entry.seq, entry.intent if is_kept else None))
        if parts & Part.FRAMES:
            batch.frames.append((entry.seq, entry.frames))

    def _row(self, entry: Entry, now: float) -> Row:
        remaining_s = None if entry.deadline is None else entry.deadline - now
        return Row(
            entry.seq,
            entry.client,
            entry.id,
            entry.digest,
            entry.run,
            entry.state,
            int(entry.is_alone),
            self._clock.boot_id,
            entry.deadline,
            remaining_s,
            entry.touched_at,
        )
