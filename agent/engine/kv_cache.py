"""The KV cache's ledger: who holds which cells, what is resident, and what can be used again.

llama.cpp's unified cache lets a second sequence id point at cells another one has computed
(`seq_cp` is metadata only). The ledger mirrors that: every computed token of a slot has a cell, and
a cell may be held by several slots. A slot is *running* (a sequence owns it), *cached* (its
sequence has ended; kept for whoever begins alike, least recently used goes first) or free.

What one client wrote is never shared with another: across clients only the public prefix counts,
which ends with the system prompt.
"""

from agent.engine.backend import Backend
from agent.engine.cells import Cells
from agent.engine.sequence import NO_SLOT, Sequence
from agent.engine.slot import Slot

# Cells promised to a new answer beyond its prompt. Longer answers take more as they grow and are
# preempted when there are none; reserving max_tokens would leave most of the pool empty.
RESERVE = 128
# A shared prefix shorter than this is not waited for: computing it twice costs less than a step.
MIN_AWAITED = 32


class KVCache:
    """Hands out slots and cells; knows for every token of every slot which cell holds it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.num_cells = backend.num_cells
        self._cells = Cells()
        self._slots = [Slot(index) for index in range(backend.num_slots)]
        self._clock = 0

    @property
    def holders(self) -> list[Sequence]:
        """The sequences that own a slot."""
        return [slot.sequence for slot in self._slots if slot.sequence is not None]

    @property
    def num_used(self) -> int:
        """Cells that running sequences hold or will need for the tokens they know."""
        return self._cells.num_pinned + self._num_to_come

    @property
    def num_resident(self) -> int:
        """Cells that hold something, cached prefixes included."""
        return self._cells.num_held

    @property
    def is_overdrawn(self) -> bool:
        """True when the running sequences alone need more cells than there are."""
        return self.num_used > self.num_cells

    # ---- admission ---------------------------------------------------------------------------

    def has_room(self, sequence: Sequence) -> bool:
        """True when the sequence can start now: a slot, cells for its tokens, a reserve for its answer.

        False also while another sequence is computing a prefix that this one could use.
        """
        # The cheap question first: a full house is asked at every step.
        if all(slot.sequence is not None for slot in self._slots):
            return False
        source, count = self._longest_match(sequence)
        if self._is_worth_waiting(sequence, count):
            return False
        if not self.holders:
            # An answer that could never have its reserve may still have the whole pool for itself.
            return True
        to_come = max(0, sequence.max_tokens - sequence.num_generated)
        shared = self._cells.count_pinned(source.cells[:count]) if source else 0
        wanted = len(sequence.tokens) - shared + min(to_come, RESERVE)
        return self.num_used + wanted <= self.num_cells

    def take(self, sequence: Sequence) -> None:
        """Give the sequence a slot, and in it the longest resident prefix. Only after `has_room`."""
        source, count = self._longest_match(sequence)
        slot = self._place_for(sequence, source, count)
        if slot is source:
            self._cut(slot, count)
        elif source is not None:
            self._backend.copy(source.index, slot.index, count)
            slot.tokens, slot.cells = source.tokens[:count], source.cells[:count]
            self._cells.hold(slot.cells)
        slot.begin(sequence)
        self._cells.pin(slot.cells)
        sequence.slot, sequence.num_computed = slot.index, count
        sequence.note_cached(count)

    # ---- while it runs -----------------------------------------------------------------------

    def note_computed(self, sequence: Sequence, count: int) -> None:
        """The next `count` tokens of the sequence are in the cache."""
        slot = self._slots[sequence.slot]
        end = sequence.num_computed + count
        slot.tokens += sequence.tokens[sequence.num_computed : end]
        cells = self._cells.make(count)
        slot.cells += cells
        sequence.num_computed = end

    def forget_uncomputed(self, sequence: Sequence) -> None:
        """Drop cells a failed decode may have left behind the last computed token."""
        self._backend.remove(sequence.slot, sequence.num_computed)

    def make_room(self) -> None:
        """Let go of cached prefixes, oldest first, until the running sequences have their cells."""
        while self.num_resident + self._num_to_come > self.num_cells:
            victim = self._oldest_cached()
            if victim is None:
                return
            self._cut(victim, 0)

    def release(self, sequence: Sequence, *, keep: bool = False) -> None:
        """Take the slot back; with `keep` its prefix stays until the cells are needed."""
        if sequence.slot == NO_SLOT:
            return
        slot = self._slots[sequence.slot]
        self._clock += 1
        slot.end(self._clock)
        self._cells.unpin(slot.cells)
        if not (keep and self._backend.can_share):
            self._cut(slot, 0)
        sequence.slot = NO_SLOT
        sequence.num_computed = 0

    def drop_cached(self) -> None:
        """Forget every prefix nobody is using."""
        while (victim := self._oldest_cached()) is not None:
            self._cut(victim, 0)

    def check_integrity(self) -> list[str]:
        """One sentence for each slot where the ledger and llama.cpp disagree."""
        return [
            f"slot {slot.index} holds {found} positions, the ledger says {len(slot.cells)}"
            for slot in self._slots
            if (found := self._backend.next_position(slot.index)) != len(slot.cells)
        ]

    # ---- matching ----------------------------------------------------------------------------

    @property
    def _num_to_come(self) -> int:
        return sum(sequence.num_remaining for sequence in self.holders)

    def _longest_match(self, sequence: Sequence) -> tuple[Slot | None, int]:
        """The slot that holds most of the sequence's beginning, and how many tokens of it.

        One token at least is left to compute: its logits are what the answer begins with.
        """
        best: Slot | None = None
        most = 0
        for slot in self._slots if self._backend.can_share else ():
            count = min(slot.usable_by(sequence, slot.tokens), len(sequence.tokens) - 1)
            if count > most or (count == most and count and best is not None and best.sequence is not None):
                best, most = slot, count
        return best, most

    def _is_worth_waiting(self, sequence: Sequence, resident: int) -> bool:
        """True while a running sequence is still computing more of this one's prefix than is resident."""
        for running in self._slots:
            if running.sequence is None or not self._backend.can_share:
                continue
            shared = min(running.usable_by(sequence, running.sequence.tokens), len(sequence.tokens) - 1)
            if shared >= MIN_AWAITED and shared > resident:
                return True
        return False

    def _place_for(self, sequence: Sequence, source: Slot | None, count: int) -> Slot:
        """The slot to run in, empty, or the source itself where going on in it loses nothing of value."""
        if source is not None and source.sequence is None:
            is_own = source.client == sequence.client or count == len(source.tokens)
            if is_own or all(slot is source or slot.sequence is not None for slot in self._slots):
                return source
        for slot in self._slots:
            if slot.sequence is None and not slot.cells:
                return slot
        victim = self._oldest_cached(keep=source)
        assert victim is not None, "take() without has_room()"
        self._cut(victim, 0)
        return victim

    def _oldest_cached(self, keep: Slot | None = None) -> Slot | None:
        cached = [slot for slot in self._slots if slot.sequence is None and slot.cells and slot is not keep]
        return min(cached, key=lambda slot: slot.used_at, default=None)

    def _cut(self, slot: Slot, count: int) -> None:
        """Keep the first `count` tokens of a slot nobody runs in."""
        self._backend.remove(slot.index, count)
        self._cells.drop(slot.cells[count:])
        del slot.tokens[count:], slot.cells[count:]
