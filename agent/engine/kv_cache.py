"""The ledger of KV cells and slots: who holds how many, checked against what llama.cpp holds."""

from agent.engine.backend import Backend
from agent.engine.sequence import NO_SLOT, Sequence

# Cells promised to a new answer beyond its prompt. Longer answers take more as they grow and are
# preempted when there are none; reserving max_tokens would leave most of the pool empty.
RESERVE = 128


class KVCache:
    """Counts cells by the tokens of the sequences that hold a slot: computed ones and those about to be."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.num_cells = backend.num_cells
        self._free_slots = list(range(backend.num_slots - 1, -1, -1))
        self.holders: list[Sequence] = []

    @property
    def num_used(self) -> int:
        """Cells needed once every holder's known tokens are computed."""
        return sum(len(sequence.tokens) for sequence in self.holders)

    @property
    def is_overdrawn(self) -> bool:
        return self.num_used > self.num_cells

    def has_room(self, sequence: Sequence) -> bool:
        """True when the sequence can start: a slot, its tokens, and a reserve for its answer."""
        if not self._free_slots:
            return False
        to_come = max(0, sequence.max_tokens - sequence.num_generated)
        wanted = len(sequence.tokens) + min(to_come, RESERVE)
        # An answer that could never have its reserve may still have the whole pool for itself.
        return self.num_used + wanted <= self.num_cells or not self.holders

    def take(self, sequence: Sequence) -> None:
        """Give the sequence a slot. Only after `has_room`."""
        sequence.slot = self._free_slots.pop()
        self.holders.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """Free the slot and all its cells; a sequence without a slot is left alone."""
        if sequence.slot == NO_SLOT:
            return
        self._backend.remove(sequence.slot, 0)
        self._free_slots.append(sequence.slot)
        self.holders.remove(sequence)
        sequence.slot = NO_SLOT
        sequence.num_computed = 0

    def forget_uncomputed(self, sequence: Sequence) -> None:
        """Drop cells a failed decode may have left behind the last computed token."""
        self._backend.remove(sequence.slot, sequence.num_computed)

    def check_integrity(self) -> list[str]:
        """One sentence for each slot where the ledger and llama.cpp disagree."""
        expected = {sequence.slot: sequence.num_computed for sequence in self.holders}
        expected |= dict.fromkeys(self._free_slots, 0)
        return [
            f"slot {slot} holds {found} positions, the ledger says {count}"
            for slot, count in sorted(expected.items())
            if (found := self._backend.next_position(slot)) != count
        ]
