"""The KV cache's ledger: who holds which cells, what is resident, and what can be used again.

llama.cpp's unified cache lets a second sequence id point at cells another one has computed
(`seq_cp` is metadata only). The ledger mirrors that: every computed token of a slot has a cell, and
a cell may be held by several slots. A slot is *running* (a sequence owns it), *cached* (its
sequence has ended; kept for whoever begins alike) or free.

When cells run short: what nobody has used for a while goes, then the pool grows, then cached
prefixes go by rank and age. What is running is the scheduler's to decide about.

What one client wrote is never shared with another: across clients only the public prefix counts,
which ends with the system prompt.
"""

import time
from collections.abc import Callable, Collection

from agent.engine.backend import Backend, Buffer
from agent.engine.cells import Cells
from agent.engine.pool import Pool
from agent.engine.sequence import NO_SLOT, Sequence
from agent.engine.slot import Rank, Slot

# Cells promised to a new answer beyond its prompt. Longer answers take more as they grow and are
# preempted when there are none; reserving max_tokens would leave most of the pool empty.
RESERVE = 128
# A shared prefix shorter than this is not waited for: computing it twice costs less than a step.
MIN_AWAITED = 32
# A finished answer that nobody has gone on from for so long is not worth more memory.
STALE_S = 60.0
# The client of what is everybody's.
PUBLIC = ""


class KVCache:
    """Hands out slots and cells; knows for every token of every slot which cell holds it."""

    def __init__(self, backend: Backend, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self.pool = pool
        self._clock = clock
        self._cells = Cells()
        self._slots = [Slot(index) for index in range(backend.num_slots)]
        # Another number whenever somebody may have room who had none before.
        self.version = 0

    @property
    def holders(self) -> list[Sequence]:
        """The sequences that own a slot."""
        return [slot.sequence for slot in self._slots if slot.sequence is not None]

    @property
    def num_cells(self) -> int:
        return self.pool.num_cells

    @property
    def num_used(self) -> int:
        """Cells that running sequences hold or will need for the tokens they know."""
        return self._cells.num_pinned + self._num_to_come

    @property
    def num_resident(self) -> int:
        """Cells that hold something, cached prefixes included."""
        return self._cells.num_held

    @property
    def longest(self) -> int:
        """The most tokens one sequence can have now."""
        return min(self.pool.reachable, self._backend.n_ctx_train)

    # ---- admission ---------------------------------------------------------------------------

    def has_room(self, sequence: Sequence, without: Collection[Sequence] = ()) -> bool:
        """True when the sequence can start now: a slot, cells for its tokens, a reserve for its answer.

        `without` names running sequences that would make way for it. False also while another
        sequence is computing a prefix that this one could use.
        """
        others = [holder for holder in self.holders if holder not in without]
        # The cheap question first: a full house is asked at every step.
        if len(others) >= self._backend.max_running:
            return False
        source, count = self._longest_match(sequence)
        if self._is_worth_waiting(sequence, count, others):
            return False
        if not others:
            # An answer that could never have its reserve may still have the whole pool for itself.
            return True
        if source is not None and source.sequence in without:
            source = None
        shared = self._cells.count_pinned(source.cells[:count]) if source else 0
        wanted = len(sequence.tokens) - shared + min(sequence.num_to_come, RESERVE)
        used = self._used_by(others) if without else self.num_used
        return used + wanted <= self.pool.reachable

    def awaits_prefix(self, sequence: Sequence) -> bool:
        """True while another sequence is computing a prefix that this one could use."""
        _, count = self._longest_match(sequence)
        return self._is_worth_waiting(sequence, count, self.holders)

    def take(self, sequence: Sequence) -> None:
        """Give the sequence a slot, and in it the longest resident prefix. Only after `has_room`."""
        source, count = self._longest_match(sequence)
        slot = self._place_for(sequence, source, count)
        if slot is source:
            self._cut(slot, count)
        elif source is not None:
            self._backend.copy(source.index, slot.index, count)
            source.used_at = self._clock()
            slot.tokens, slot.cells = source.tokens[:count], source.cells[:count]
            self._cells.hold(slot.cells)
        slot.begin(sequence)
        self.version += 1
        self._cells.pin(slot.cells)
        sequence.slot, sequence.num_computed = slot.index, len(slot.cells)
        sequence.note_cached(len(slot.cells))

    # ---- while it runs -----------------------------------------------------------------------

    def note_computed(self, sequence: Sequence, count: int) -> None:
        """The next `count` tokens of the sequence are in the cache."""
        slot = self._slots[sequence.slot]
        end = sequence.num_computed + count
        slot.tokens += sequence.tokens[sequence.num_computed : end]
        cells = self._cells.make(count)
        self._cells.pin(cells)
        slot.cells += cells
        sequence.num_computed = end
        if not sequence.num_generated:  # others may wait for this prompt
            self.version += 1

    def forget_uncomputed(self, sequence: Sequence) -> None:
        """Drop cells a failed decode may have left behind the last computed token."""
        if not self._backend.remove(sequence.slot, sequence.num_computed):
            self._rewind(sequence, 0)

    def cut(self, sequence: Sequence, start: int, end: int) -> None:
        """Take tokens out of the middle of a sequence, so that it can go on in fewer cells.

        What lies behind is moved up, where that is possible and the cells are nobody else's;
        otherwise it is computed again.
        """
        if sequence.slot != NO_SLOT and start < sequence.num_computed:
            slot = self._slots[sequence.slot]
            if self._backend.can_shift and not self._cells.are_shared(slot.cells[end:]):
                self._close_gap(slot, start, min(end, sequence.num_computed))
                sequence.num_computed = len(slot.cells)
            else:
                self._rewind(sequence, start)
        sequence.cut(start, end)

    def make_room(self) -> bool:
        """Find cells for what the running sequences know; False when there are none to be had."""
        while self.num_resident + self._num_to_come > self.num_cells:
            victim = self._oldest_cached(not_used_since=self._clock() - STALE_S)
            if victim is None:
                if self._grow():
                    continue
                victim = self._oldest_cached()
            if victim is None:
                return False
            self._cut(victim, 0)
        return True

    def release(self, sequence: Sequence, *, keep: bool = False) -> None:
        """Take the slot back; with `keep` its prefix stays until the cells are needed."""
        if sequence.slot == NO_SLOT:
            return
        slot = self._slots[sequence.slot]
        slot.end(self._clock())
        self.version += 1
        self._cells.unpin(slot.cells)
        if not (keep and self._backend.can_share):
            self._cut(slot, 0)
        sequence.slot = NO_SLOT
        sequence.num_computed = 0

    # ---- while nothing runs ------------------------------------------------------------------

    def drop_cached(self, below: Rank | None = None) -> None:
        """Forget every prefix nobody is using, or those of a rank below this."""
        for slot in self._slots:
            if slot.is_cached and (below is None or slot.rank < below):
                self._cut(slot, 0)

    def shrink(self) -> None:
        """Give cells that hold nothing back to the system."""
        self._note_resize(self.pool.shrink(self.num_resident + self._num_to_come))

    def sleep(self) -> None:
        """Give all cells back. Only while nothing runs."""
        self.pool.sleep()
        self._forget_all()

    def holds(self, tokens: list[int], rank: Rank = Rank.ANSWER) -> bool:
        """True when a slot of this rank or above holds these, for everybody."""
        return any(
            slot.rank >= rank
            and min(slot.num_public, len(slot.tokens)) >= len(tokens)
            and slot.tokens[: len(tokens)] == tokens
            for slot in self._slots
        )

    def can_adopt(self, num_tokens: int) -> bool:
        """True when a profile of so many tokens can be kept, and no other has to go for it."""
        profiles = sum(len(slot.cells) for slot in self._slots if self._is_profile(slot))
        has_slot = any(slot.sequence is None and not self._is_profile(slot) for slot in self._slots)
        return has_slot and max(self.num_used, profiles) + num_tokens <= self.pool.reachable

    def adopt(self, tokens: list[int], state: Buffer) -> bool:
        """Take a public prefix in that another context computed (Backend.save); False if it does not fit."""
        if not self.can_adopt(len(tokens)):
            return False
        slot = self._empty_slot() or self._oldest_cached()
        if slot is None or self._is_profile(slot):
            return False
        self._cut(slot, 0)
        while self.num_resident + self._num_to_come + len(tokens) > self.num_cells:
            if self._grow(len(tokens)):
                continue
            victim = self._oldest_cached()
            if victim is None or self._is_profile(victim):
                return False
            self._cut(victim, 0)
        if not self._backend.restore(slot.index, state):
            return False
        slot.tokens, slot.cells = list(tokens), self._cells.make(len(tokens))
        self._make_public(slot)
        return True

    def keep_public(self, sequence: Sequence) -> Slot:
        """End a warm-up: what it computed is there for everybody."""
        slot = self._slots[sequence.slot]
        self.release(sequence, keep=True)
        self._make_public(slot)
        return slot

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

    def _used_by(self, sequences: Collection[Sequence]) -> int:
        cells = {cell for sequence in sequences for cell in self._slots[sequence.slot].cells}
        return len(cells) + sum(sequence.num_remaining for sequence in sequences)

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

    def _is_worth_waiting(self, sequence: Sequence, resident: int, others: Collection[Sequence]) -> bool:
        """True while a running sequence is still computing more of this one's prefix than is resident."""
        if not self._backend.can_share:
            return False
        for running in others:
            slot = self._slots[running.slot]
            shared = min(slot.usable_by(sequence, running.tokens), len(sequence.tokens) - 1)
            if shared >= MIN_AWAITED and shared > resident:
                return True
        return False

    def _place_for(self, sequence: Sequence, source: Slot | None, count: int) -> Slot:
        """The slot to run in, empty, or the source itself where going on in it loses nothing of value."""
        if source is not None and source.sequence is None and source.rank is not Rank.PROFILE:
            is_all = count == len(source.tokens)
            is_most = source.client == sequence.client and 2 * count >= len(source.tokens)
            if is_all or is_most or all(slot is source or slot.sequence is not None for slot in self._slots):
                return source
        if empty := self._empty_slot():
            return empty
        victim = self._oldest_cached(keep=source) or source
        assert victim is not None, "take() without has_room()"
        if victim is not source:
            self._cut(victim, 0)
        return victim

    def _empty_slot(self) -> Slot | None:
        return next((slot for slot in self._slots if slot.sequence is None and not slot.cells), None)

    # ---- letting go --------------------------------------------------------------------------

    def _oldest_cached(self, keep: Slot | None = None, not_used_since: float | None = None) -> Slot | None:
        cached = [slot for slot in self._slots if slot.is_cached and slot is not keep]
        if not_used_since is not None:
            cached = [slot for slot in cached if slot.rank is Rank.ANSWER and slot.used_at < not_used_since]
        return min(cached, key=lambda slot: (slot.rank, slot.used_at), default=None)

    def _grow(self, extra: int = 0) -> bool:
        """Make the pool larger; False when it cannot be, or cannot with what is resident."""
        reserve = sum(min(sequence.num_to_come, RESERVE) for sequence in self.holders)
        needed = self.num_resident + self._num_to_come + reserve + extra
        is_kept = self.pool.grow(needed, self.num_resident)
        self._note_resize(is_kept)
        return is_kept is not None

    def _note_resize(self, is_kept: bool | None) -> None:
        """Forget what a resize has lost: a refused one may have, for want of memory to undo it."""
        if is_kept is False or (is_kept is None and self.check_integrity()):
            self._forget_all()
        self.version += 1

    def _cut(self, slot: Slot, count: int) -> None:
        """Keep the first `count` tokens of a slot nobody runs in, or none if it cannot lose its end."""
        if not self._backend.remove(slot.index, count):
            self._backend.remove(slot.index, 0)
            count = 0
        self._cells.drop(slot.cells[count:])
        del slot.tokens[count:], slot.cells[count:]
        if slot.num_exact is not None and count <= slot.num_exact:
            slot.num_exact = None
        self.version += 1

    def _rewind(self, sequence: Sequence, count: int) -> None:
        """Have a running sequence compute all but its first `count` tokens again."""
        slot = self._slots[sequence.slot]
        self._cells.unpin(slot.cells)
        self._cut(slot, count)
        self._cells.pin(slot.cells)
        sequence.num_computed = len(slot.cells)

    def _close_gap(self, slot: Slot, start: int, end: int) -> None:
        """Drop positions `start` to `end` of a running slot and move up what is behind them."""
        self._backend.remove(slot.index, start, end)
        if end < len(slot.cells):
            self._backend.shift(slot.index, end, start - end)
        self._cells.unpin(slot.cells[start:end])
        self._cells.drop(slot.cells[start:end])
        del slot.tokens[start:end], slot.cells[start:end]
        slot.num_exact = start if slot.num_exact is None else min(start, slot.num_exact)
        self.version += 1

    def _is_profile(self, slot: Slot) -> bool:
        return slot.rank is Rank.PROFILE and bool(slot.cells)

    def _make_public(self, slot: Slot) -> None:
        self.version += 1
        slot.client, slot.num_public = PUBLIC, len(slot.tokens)
        slot.rank, slot.used_at = Rank.PROFILE, self._clock()

    def _forget_all(self) -> None:
        """The context is empty: what runs is computed again from its tokens."""
        for slot in self._slots:
            if slot.sequence is not None:
                self._cells.unpin(slot.cells)
                slot.sequence.num_computed = 0
            self._cells.drop(slot.cells)
            slot.tokens, slot.cells, slot.num_exact = [], [], None
        self.version += 1
