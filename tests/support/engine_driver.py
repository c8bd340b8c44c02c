"""Runs an engine on the caller's thread, turn by turn, and keeps what it said about each request."""

from collections import defaultdict
from dataclasses import dataclass, field

from agent.engine.backend import Backend
from agent.engine.engine import Engine, Options, Work
from agent.engine.messages import Cancel, Events, Stats
from agent.engine.pool import Pool
from agent.engine.prompt import Prompt
from agent.request import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    Resume,
    Sampling,
)

GREEDY = Sampling(seed=0, temperature=0.0)
EVERY_STEP = Options(emit_every_s=0)
# Far more than any test's work takes: an engine that never falls idle is an error, not a hang.
MAX_TURNS = 5_000


@dataclass(slots=True)
class Answer:
    """All events of one request, in order."""

    events: list[Event] = field(default_factory=list)

    @property
    def deltas(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def endings(self) -> list[Finished | Failed]:
        return [event for event in self.events if isinstance(event, Finished | Failed)]

    @property
    def ending(self) -> Finished | Failed:
        """The one terminal event, which must be the last."""
        assert len(self.endings) == 1, f"{len(self.endings)} terminal events"
        assert self.events[-1] is self.endings[0], "events after the terminal one"
        return self.endings[0]

    def resume(self, num_deltas: int) -> Resume:
        """Where the answer stood after its first deltas."""
        done = self.deltas[:num_deltas]
        return Resume(
            tokens=tuple(token for delta in done for token in delta.tokens),
            draws=done[-1].draws if done else 0,
        )


class EngineDriver:
    """`n_ctx` is the most the pool may grow to; by default it stays as it is."""

    def __init__(
        self,
        backend: Backend,
        *,
        n_ctx: int | None = None,
        hard_bytes: int = 0,
        options: Options = EVERY_STEP,
    ) -> None:
        self.backend = backend
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.emitted: list[Events | Stats] = []
        self.pool = Pool(backend, n_ctx=n_ctx or backend.num_cells, hard_bytes=hard_bytes)
        self.engine = Engine(backend, self.pool, self._take, options)
        self._pending: set[int] = set()

    def submit(
        self,
        key: int,
        tokens: list[int],
        *,
        client: str = "client",
        sampling: Sampling = GREEDY,
        max_tokens: int = 32,
        stop: tuple[str, ...] = (),
        resume: Resume | None = None,
        num_public: int = 0,
        priority: int = 0,
        history: tuple[int, int] = (0, 0),
        num_history_turns: int = 0,
        grammar: str | None = None,
    ) -> None:
        request = Request(
            client=client,
            id=str(key),
            messages=(),
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            priority=priority,
        )
        self.put(
            Prompt(key, request, tokens, resume, num_public, history, num_history_turns, grammar=grammar)
        )

    def cancel(self, key: int, reason: FinishReason = FinishReason.CANCELLED) -> None:
        self.put(Cancel(key, reason))

    def put(self, work: Work) -> None:
        """Hand over work; it is taken by the next turn."""
        if isinstance(work, Prompt):
            self._pending.add(work.key)
        self.engine.inbox.put(work)

    def turn(self) -> None:
        """One turn of the engine, or nothing when it would sleep."""
        if self._pending:
            self.engine.turn()

    def run(self) -> None:
        """Turn until every request has ended."""
        for _ in range(MAX_TURNS):
            if not self._pending:
                return
            self.engine.turn()
        raise AssertionError(f"requests {sorted(self._pending)} have not ended after {MAX_TURNS} turns")

    def _take(self, message: Events | Stats) -> None:
        self.emitted.append(message)
        if isinstance(message, Stats):
            return
        for item in message.items:
            self.answers[item.key].events.append(item.event)
            if isinstance(item.event, Finished | Failed):
                self._pending.discard(item.key)
