"""The engine thread: takes work from its inbox, steps, and emits what each step brought.

One thread owns the backend. Others reach it through `inbox` only; they hand over sequences that
are already rendered and tokenised (intake.py), so that a step is nothing but
admit -> batch -> decode -> sample -> emit.
"""

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.engine.backend import Backend, DecodeStatus
from agent.engine.batch import Batch
from agent.engine.kv_cache import KVCache
from agent.engine.messages import Cancel, Events, Pressure, Stats
from agent.engine.outbox import EVERY_S, Outbox
from agent.engine.pace import PrefillPace
from agent.engine.pool import Pool
from agent.engine.prefix_store import PrefixStore
from agent.engine.profiles import Profiles
from agent.engine.prompt import Prompt
from agent.engine.rest import NEVER, Rest
from agent.engine.scheduler import Scheduler
from agent.engine.sequence import Sequence
from agent.engine.slot import Rank
from agent.engine.threads import ThreadGovernor
from agent.engine.window import next_cut
from agent.errors import InsufficientMemory, RequestError
from agent.request import Failed, Finished, FinishReason, Prefilling, Queued, Started

log = logging.getLogger(__name__)

STATS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that ended before it became a sequence."""

    key: int
    failed: Failed


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread; sent when the daemon is gone."""


Work = Prompt | Cancel | Rejected | Pressure | Stop


@dataclass(frozen=True, slots=True)
class Options:
    """What the engine is set to besides its model. Times in seconds."""

    governor: ThreadGovernor | None = None
    # The tokens every prompt with a declared profile begins with, and where they are kept.
    profiles: tuple[list[int], ...] = ()
    store: PrefixStore | None = None
    sleep_after_s: float = NEVER
    emit_every_s: float = EVERY_S


class Engine:
    """`emit` gets the messages for the daemon, on the engine's own thread; it may block."""

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        emit: Callable[[Events | Stats], None],
        options: Options = Options(),
    ) -> None:
        self.inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._backend = backend
        self._pool = pool
        self._emit = emit
        self._outbox = Outbox(emit, options.emit_every_s)
        self._kv = KVCache(backend, pool)
        self._scheduler = Scheduler(self._kv, backend.n_batch)
        self._pace = PrefillPace()
        self._governor = options.governor
        self._profiles = Profiles(options.profiles, backend, self._kv, options.store)
        self._rest = Rest(self._kv, options.sleep_after_s)
        self._sequences: dict[int, Sequence] = {}
        self._stats_due = 0.0
        self._tokens_since_stats = 0
        self._stats_since = time.monotonic()
        self._is_stopped = False

    def run(self) -> None:
        """Turn until told to stop."""
        self._profiles.restore()
        self._report_stats()
        while self.turn():
            pass

    def turn(self) -> bool:
        """Take work, step, report; sleeps on the inbox when there is nothing to do. False: told to stop."""
        self._take_work()
        if self._is_stopped:
            return False
        if not self._scheduler.is_idle and self._is_awake():
            self._follow_load()
            self.step()
        self._outbox.flush()
        self._report_stats()
        return True

    def step(self) -> None:
        """Compute one batch and let every sequence in it take its next token."""
        num_streams = sum(sequence.is_decoding for sequence in self._scheduler.running)
        for sequence in self._scheduler.admit():
            if not sequence.is_warmup:
                self._outbox.put(sequence.key, Started())
        # The daemon must know who was being computed if this step is the last one.
        self._outbox.flush()
        num_prompts = len(self._scheduler.running) - num_streams
        prefill_rows = self._pace.rows(num_streams, num_prompts, self._backend.n_batch)
        batch = self._scheduler.schedule(prefill_rows)
        if not len(batch):
            self._end_stuck()
            return
        started = time.monotonic()
        status = self._backend.decode(batch)
        if status is DecodeStatus.OK:
            num_prefill = batch.num_prefill
            self._pace.observe(num_prefill, len(batch) - num_prefill, time.monotonic() - started)
            self._advance(batch)
        else:
            self._recover(batch, status)

    # ---- work in -----------------------------------------------------------------------------

    def _take_work(self) -> None:
        """All waiting work; the first piece is waited for when the engine is idle."""
        is_idle = self._scheduler.is_idle and not self._start_warmup()
        if is_idle:
            self._check_integrity()
        wait_s = self._rest.wait_s() if is_idle else 0.0
        while True:
            try:
                work = self.inbox.get(block=wait_s != 0, timeout=wait_s)
            except queue.Empty:
                if is_idle:
                    self._rest.settle()
                return
            if is_idle:
                is_idle, wait_s = False, 0.0
            if isinstance(work, Prompt):
                self._wake_up()
            self._take(work)

    def _start_warmup(self) -> bool:
        """Nobody asks anything: compute a profile, if one is missing."""
        if self._pool.is_asleep or self._pool.pressure:
            return False
        warmup = self._profiles.next_warmup()
        if warmup is not None:
            self._sequences[warmup.key] = warmup
            self._scheduler.add(warmup)
        return warmup is not None

    def _wake_up(self) -> None:
        self._rest.end()
        if self._governor is not None and self._scheduler.is_idle:
            self._governor.wake()

    def _is_awake(self) -> bool:
        """See to it that there is a context; those that wait fail when there is no memory for one."""
        if not self._pool.is_asleep:
            return True
        try:
            self._pool.wake()
        except InsufficientMemory as error:
            for sequence in list(self._sequences.values()):
                self._fail(sequence, error.code, error.message)
            return False
        self._profiles.restore()
        return True

    def _take(self, work: Work) -> None:
        match work:
            case Prompt():
                self._start(work)
            case Cancel():
                self._cancel(work)
            case Rejected():
                self._outbox.put(work.key, work.failed)
            case Pressure():
                self._relieve(work.level)
            case Stop():
                self._is_stopped = True

    def _start(self, prompt: Prompt) -> None:
        sequence = prompt.to_sequence(self._backend)
        self._sequences[sequence.key] = sequence
        self._scheduler.add(sequence)
        self._outbox.put(sequence.key, Queued(num_prompt=sequence.num_prompt))
        if not self._pool.is_asleep:
            self._profiles.restore_for(sequence)
        if sequence.num_generated and (reason := self._end_of(sequence, sequence.tokens[-1])):
            # This context is smaller than the one the answer began in. No other end is met here: a
            # last delta and its Finished travel in one message.
            self._finish(sequence, reason)

    def _relieve(self, level: int) -> None:
        """The box is short of memory, or is no longer: idle prefixes go first, at level 2 profiles too."""
        self._pool.pressure = level
        if level:
            self._kv.drop_cached(below=Rank.PROFILE if level == 1 else None)
            self._kv.shrink()

    def _cancel(self, cancel: Cancel) -> None:
        sequence = self._sequences.get(cancel.key)
        if sequence is None:
            return
        if sequence.num_generated:
            self._finish(sequence, cancel.reason)
        elif cancel.reason is FinishReason.TIMEOUT:
            self._fail(sequence, "expired", "the request's time to live ended before its first token")
        else:
            self._fail(sequence, "cancelled", "the request was cancelled before its first token")

    # ---- results out -------------------------------------------------------------------------

    def _advance(self, batch: Batch) -> None:
        for chunk in batch.chunks:
            self._kv.note_computed(chunk.sequence, chunk.count)
            if chunk.output_row is None:
                continue
            if chunk.sequence.is_warmup:
                self._end_warmup(chunk.sequence)
            else:
                self._sample(chunk.sequence, chunk.output_row)

    def _sample(self, sequence: Sequence, row: int) -> None:
        try:
            token = sequence.sampler.sample(row)
        except RequestError as error:
            log.warning("request %d cannot go on: %s", sequence.key, error.message)
            self._fail(sequence, error.code, error.message)
        else:
            self._append(sequence, token)

    def _append(self, sequence: Sequence, token: int) -> None:
        sequence.tokens.append(token)
        sequence.new_tokens.append(token)
        self._tokens_since_stats += 1
        if sequence.first_token_at is None:
            sequence.first_token_at = time.monotonic()
        if not self._backend.tokenizer.is_end(token):
            sequence.new_text += sequence.detokenizer.feed(self._backend.tokenizer.piece(token))
        reason = self._end_of(sequence, token)
        if reason:
            self._finish(sequence, reason)
        else:
            self._outbox.grow(sequence)

    def _end_of(self, sequence: Sequence, token: int) -> FinishReason | None:
        """Why the answer ends with this token, or None when it goes on."""
        if self._backend.tokenizer.is_end(token) or sequence.detokenizer.stopped:
            return FinishReason.STOP
        if sequence.num_generated >= sequence.max_tokens or not self._fits(sequence):
            return FinishReason.LENGTH
        return None

    def _fits(self, sequence: Sequence) -> bool:
        """True when it can go on in the context, if need be without a part of what was said before."""
        while len(sequence.tokens) > self._kv.longest:
            cut = next_cut(sequence)
            if cut is None:
                return False
            self._kv.cut(sequence, *cut)
        return True

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.new_text += sequence.detokenizer.finish()
        usage, timings = sequence.usage(), sequence.timings()
        self._end(sequence, Finished(reason, usage, timings, sequence.trimming()))

    def _fail(self, sequence: Sequence, code: str, message: str) -> None:
        self._end(sequence, Failed(code=code, message=message))

    def _end(self, sequence: Sequence, event: Finished | Failed) -> None:
        if not sequence.is_warmup:
            self._outbox.end(sequence, event)
        self._remove(sequence)

    def _end_warmup(self, sequence: Sequence) -> None:
        self._profiles.finish(sequence)
        self._remove(sequence)

    def _end_stuck(self) -> None:
        """One sequence runs alone and has no cells: the pool was taken from under it."""
        for sequence in self._scheduler.running[:1]:
            if sequence.num_generated:
                self._finish(sequence, FinishReason.LENGTH)
            else:
                message = f"{len(sequence.tokens)} tokens do not fit into the memory there is now; try later"
                self._fail(sequence, "insufficient_memory", message)

    def _remove(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        sequence.sampler.close()
        del self._sequences[sequence.key]

    # ---- when a decode fails -----------------------------------------------------------------

    def _recover(self, batch: Batch, status: DecodeStatus) -> None:
        """No cells: someone waits. Anything else: each sequence alone, and only the culprit ends."""
        for chunk in batch.chunks:
            self._kv.forget_uncomputed(chunk.sequence)
        if status is DecodeStatus.NO_CELLS and self._scheduler.preempt_last(keep=False):
            log.warning("the KV cache was full before the ledger said so; one sequence waits")
            self._kv.drop_cached()
            return
        for alone in batch.alone():
            sequence = alone.chunks[0].sequence
            status = self._backend.decode(alone)
            if status is DecodeStatus.OK:
                self._advance(alone)
                continue
            self._kv.forget_uncomputed(sequence)
            if status is DecodeStatus.NO_CELLS and len(self._scheduler.running) > 1:
                # Not its fault: the next step finds the cache full as well, and somebody waits.
                continue
            log.error("decode of request %d failed: %s", sequence.key, status.name)
            reason = f"the model could not compute this request ({status.name.lower()})"
            self._fail(sequence, "internal", reason)

    def _follow_load(self) -> None:
        if self._governor is not None:
            before = self._governor.count
            if (count := self._governor.look()) != before:
                self._backend.set_threads(count)

    # ---- how it is doing ---------------------------------------------------------------------

    def _check_integrity(self) -> None:
        for complaint in self._kv.check_integrity():
            log.error("KV ledger: %s", complaint)

    def _report_stats(self) -> None:
        now = time.monotonic()
        if now < self._stats_due and not self._scheduler.is_idle:
            return
        self._stats_due = now + STATS_EVERY_S
        self._report_prefills(now)
        elapsed = max(now - self._stats_since, 1e-3)
        self._emit(
            Stats(
                num_running=len(self._scheduler.running),
                num_waiting=self._scheduler.num_waiting,
                cells_used=self._kv.num_used,
                cells_total=self._kv.num_cells,
                num_preemptions=self._scheduler.num_preemptions,
                tokens_per_s=self._tokens_since_stats / elapsed,
                is_asleep=self._pool.is_asleep,
                num_resizes=self._pool.num_resizes,
                longest_resize_s=round(self._pool.longest_resize_s, 3),
            )
        )
        self._stats_since, self._tokens_since_stats = now, 0

    def _report_prefills(self, now: float) -> None:
        """Who waits for a first token for more than a moment hears how far its prompt is."""
        for sequence in self._scheduler.running:
            is_long = sequence.admitted_at is not None and now - sequence.admitted_at >= STATS_EVERY_S
            if is_long and not sequence.num_generated and not sequence.is_warmup:
                done = min(sequence.num_computed, sequence.num_prompt)
                self._outbox.put(sequence.key, Prefilling(num_done=done))
