"""Decides what the next step computes: admit, make room, decode rows first, then prefill.

Waiting sequences are admitted in turn over clients, so that one client's burst cannot hold the
others back (waiting.py). Running sequences are kept in order of admission. Of the prompts, the one
with least to compute comes first, and the one admitted first always gets a part: a short question
does not wait for a long one, and a long one does not wait for ever.
"""

from agent.engine.batch import Batch
from agent.engine.kv_cache import KVCache
from agent.engine.sequence import Sequence
from agent.engine.waiting import Waiting

# A prompt too large for the free cells lets this many later ones pass, then holds the door.
MAX_SKIPS = 16
# Of a step's prompt rows, one in so many is for the prompt admitted first.
OLDEST_SHARE = 4
# A profile that is computed beside streams, and that nobody waits for, hardly slows them.
WARMUP_ROWS = 4


class Scheduler:
    """Owns the order of the sequences; their cells are the ledger's (kv_cache.py)."""

    def __init__(self, kv_cache: KVCache, n_batch: int) -> None:
        self._kv = kv_cache
        self._n_batch = n_batch
        self._waiting = Waiting()
        self._is_full = False
        # How things stood when nobody more could be admitted.
        self._exhausted: tuple[int, ...] = ()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self.running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind its client's others."""
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands, and free its cells."""
        if sequence not in self.running:
            self._waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._kv.release(sequence, keep=True)
        self._waiting.refund(sequence)
        self._is_full = False

    def admit(self) -> list[Sequence]:
        """Start every waiting sequence that has room; returns those.

        After llama.cpp had no cells where the ledger saw some, nobody is admitted until somebody
        leaves: the same sequence would come and go for ever.
        """
        admitted: list[Sequence] = []
        if self._is_full or self._situation == self._exhausted:
            return admitted
        while sequence := self._next_admissible():
            self._waiting.take(sequence)
            self._kv.take(sequence)
            self.running.append(sequence)
            sequence.mark_admitted()
            admitted.append(sequence)
        self._exhausted = self._situation
        return admitted

    def schedule(self, prefill_rows: int) -> Batch:
        """The next batch: every stream's next token, then at most `prefill_rows` prompt tokens.

        Empty when even the last running sequence has no cells and there are none to be had.
        """
        batch = Batch()
        while not self._kv.make_room():
            if not self.preempt_last():
                return batch
        for sequence in self.running:
            if sequence.is_decoding:
                batch.add(sequence, 1)
        self._add_prompts(batch, min(prefill_rows, self._n_batch - len(batch)))
        return batch

    def preempt_last(self, *, keep: bool = True) -> bool:
        """Have the least important sequence, of those the one admitted last, wait with its tokens.

        With `keep` its cells stay as well for as long as nobody needs them. False when only one runs.
        """
        if len(self.running) < 2:
            return False
        self._preempt(min(reversed(self.running), key=lambda sequence: sequence.priority), keep=keep)
        self._is_full = not keep
        return True

    @property
    def _situation(self) -> tuple[int, ...]:
        """What admission depends on: asking every head anew at every step would take longer than the step."""
        return self._kv.version, self._kv.pool.reachable, self._waiting.version

    def _add_prompts(self, batch: Batch, room: int) -> None:
        prompts = [sequence for sequence in self.running if not sequence.is_decoding]
        if len(batch) and not self._waiting and all(sequence.is_warmup for sequence in prompts):
            room = min(room, WARMUP_ROWS)
        if not prompts or room <= 0:
            return
        oldest = prompts[0]
        rows = {oldest: min(oldest.num_remaining, -(-room // OLDEST_SHARE))}
        room -= rows[oldest]
        for sequence in sorted(prompts, key=lambda sequence: (-sequence.priority, sequence.num_remaining)):
            more = min(sequence.num_remaining - rows.get(sequence, 0), room)
            rows[sequence] = rows.get(sequence, 0) + more
            room -= more
        for sequence in prompts:
            if rows[sequence]:
                batch.add(sequence, rows[sequence])

    def _next_admissible(self) -> Sequence | None:
        """The sequence that is due, or a later one while the first does not fit."""
        passed: list[Sequence] = []
        for head in self._waiting.heads():
            if self._kv.has_room(head) or self._make_way(head):
                for sequence in passed:
                    sequence.num_skips += 1
                return head
            if self._kv.awaits_prefix(head):
                continue  # cells are not what it is short of
            if head.num_skips >= MAX_SKIPS:
                return None
            passed.append(head)
        return None

    def _make_way(self, head: Sequence) -> bool:
        """Preempt less important sequences for this one; none of them unless that is enough."""
        if self._kv.awaits_prefix(head):
            return False  # whoever computes it is on the way to what this one needs first
        lesser = [sequence for sequence in self.running if sequence.priority < head.priority]
        lesser.sort(key=lambda sequence: sequence.priority)
        for count in range(1, len(lesser) + 1):
            if self._kv.has_room(head, without=lesser[:count]):
                for sequence in lesser[:count]:
                    self._preempt(sequence)
                return self._kv.has_room(head)
        return False

    def _preempt(self, sequence: Sequence, *, keep: bool = True) -> None:
        self.running.remove(sequence)
        self._kv.release(sequence, keep=keep)
        self._waiting.put_back(sequence)
        self.num_preemptions += 1
