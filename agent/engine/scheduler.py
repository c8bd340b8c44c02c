"""Decides what the next step computes: admit, make room, decode rows first, then prefill.

Waiting sequences queue per client and are admitted in turn over clients, so that one client's
burst cannot hold the others back. Running sequences are kept in order of admission.
"""

from collections import OrderedDict, deque

from agent.engine.batch import Batch
from agent.engine.kv_cache import KVCache
from agent.engine.sequence import Sequence

# A prompt too large for the free cells lets this many later ones pass, then holds the door.
MAX_SKIPS = 16


class Scheduler:
    """Owns the order of the sequences; their cells are the ledger's (kv_cache.py)."""

    def __init__(self, kv_cache: KVCache, n_batch: int) -> None:
        self._kv = kv_cache
        self._n_batch = n_batch
        self._waiting: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self._is_full = False
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def is_idle(self) -> bool:
        return not self.running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind its client's others."""
        self._waiting.setdefault(sequence.client, deque()).append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands, and free its cells."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._kv.release(sequence, keep=True)
            self._is_full = False
            return
        queue = self._waiting.get(sequence.client)
        if queue and sequence in queue:
            queue.remove(sequence)
            self._forget_if_empty(sequence.client)

    def admit(self) -> list[Sequence]:
        """Start every waiting sequence that has room; returns those.

        After a preemption nobody is admitted until somebody leaves: the ledger may see room where
        llama.cpp has none, and the same sequence would come and go for ever.
        """
        admitted: list[Sequence] = []
        if self._is_full:
            return admitted
        while sequence := self._next_admissible():
            self._waiting[sequence.client].popleft()
            self._waiting.move_to_end(sequence.client)
            self._forget_if_empty(sequence.client)
            self._kv.take(sequence)
            self.running.append(sequence)
            sequence.mark_admitted()
            admitted.append(sequence)
        return admitted

    def schedule(self, prefill_rows: int) -> Batch:
        """The next batch: every stream's next token, then at most `prefill_rows` prompt tokens."""
        self._make_room()
        batch = Batch()
        for sequence in self.running:
            if sequence.is_decoding:
                batch.add(sequence, 1)
        room = min(prefill_rows, self._n_batch - len(batch))
        for sequence in self.running:
            if not sequence.is_decoding and room > 0:
                count = min(sequence.num_remaining, room)
                batch.add(sequence, count)
                room -= count
        return batch

    def preempt_last(self) -> bool:
        """Send the sequence admitted last back to wait, its tokens kept; False when only one runs."""
        if len(self.running) < 2:
            return False
        sequence = self.running.pop()
        self._kv.release(sequence)
        self._waiting.setdefault(sequence.client, deque()).appendleft(sequence)
        self._waiting.move_to_end(sequence.client, last=False)
        self.num_preemptions += 1
        self._is_full = True
        return True

    def _next_admissible(self) -> Sequence | None:
        """The head of the first client's queue, or of a later one's while the first does not fit."""
        passed: list[Sequence] = []
        for queue in self._waiting.values():
            head = queue[0]
            if self._kv.has_room(head):
                for sequence in passed:
                    sequence.num_skips += 1
                return head
            if head.num_skips >= MAX_SKIPS:
                return None
            passed.append(head)
        return None

    def _make_room(self) -> None:
        while self._kv.is_overdrawn and self.preempt_last():
            pass
        self._kv.make_room()

    def _forget_if_empty(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
