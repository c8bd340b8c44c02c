"""What happened, as records: what each device asked and heard, and what was done to the box meanwhile."""

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

import msgspec
from msgspec import Struct

# Refusals that say: not now. The request was not taken, and the device asks again under the same id.
REFUSALS = frozenset({"busy", "rate_limited", "model_unavailable", "insufficient_memory", "internal"})
NOT_FOUND = "not_found"


class Frame(Struct, frozen=True, kw_only=True):
    """A frame as the contract has it; what a type does not have is None."""

    id: str
    type: str
    seq: int = 0
    run: int = 0
    node: str = ""
    boot_id: str | None = None
    queue_pos: int | None = None
    seed: int | None = None
    phase: str | None = None
    off: int | None = None
    text: str | None = None
    finish_reason: str | None = None
    chunks: int | None = None
    sha256: str | None = None
    code: str | None = None
    retryable: bool = False
    retry_after_ms: int | None = None

    @property
    def is_end(self) -> bool:
        """`done` or `error`; `not_found` answers a `get` and ends nothing."""
        return self.type == "done" or (self.type == "error" and self.code != NOT_FOUND)


_decoder = msgspec.json.Decoder(Frame)


def decode(payload: bytes) -> Frame:
    """Raises msgspec.DecodeError for what is no frame."""
    return _decoder.decode(payload)


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked: the request's own fields, so that its JSON is the payload."""

    id: str
    prompt: str
    seed: int
    temperature: float
    max_tokens: int
    reply_qos: int = 0
    session: str | None = None
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of one client, and how its device behaves about it.

    `cancel_after_s` 0 sends the cancel before the request, None never. `gets_first`: a `get` goes first.
    """

    client: str
    question: Question
    cancel_after_s: float | None = None
    gets_first: bool = False

    @property
    def id(self) -> str:
        return self.question.id

    @property
    def payload(self) -> bytes:
        return msgspec.json.encode(self.question)


@dataclass(frozen=True, slots=True)
class Heard:
    """One frame that reached the device, byte for byte."""

    at_s: float
    qos: int
    is_duplicate: bool
    payload: bytes
    frame: Frame


@dataclass(slots=True)
class Story:
    """All that a device sent and heard about one ask; times in seconds of one monotonic clock."""

    ask: Ask
    sent_at: list[float] = field(default_factory=list)
    got_at: list[float] = field(default_factory=list)
    cancelled_at: float | None = None
    acked_at: float | None = None
    heard: list[Heard] = field(default_factory=list)

    @property
    def accepted(self) -> Heard | None:
        """The first `accepted`."""
        return next((one for one in self.heard if one.frame.type == "accepted"), None)

    @property
    def results(self) -> list[Heard]:
        """Terminal frames, repeats among them, without refusals: those are answered by asking again."""
        taken = self.accepted
        return [
            one
            for one in self.heard
            if one.frame.is_end and not (is_refusal(one.frame) and (taken is None or one.at_s < taken.at_s))
        ]

    @property
    def num_refusals(self) -> int:
        return sum(one.frame.is_end for one in self.heard) - len(self.results)

    @property
    def longest_silence_s(self) -> float:
        """Between the first sending and the first result, the longest time without a frame."""
        results = self.results
        if not self.sent_at or not results:
            return 0.0
        until = results[0].at_s
        times = [self.sent_at[0], *(one.at_s for one in self.heard if one.at_s <= until)]
        return max((after - before for before, after in pairwise(times)), default=0.0)


def is_refusal(frame: Frame) -> bool:
    """Said before `accepted`, it means that the request was not taken."""
    return frame.type == "error" and frame.code in REFUSALS


class Harm(StrEnum):
    """What was done to the box that changes what may be asked of it."""

    ENGINE_DEATH = "engine death"
    DAEMON_DEATH = "daemon death"
    # The broker lost what it kept for sessions: all of it, or its last second.
    FORGETTING = "forgetting broker"
    DISK_FULL = "full disk"
    SQUEEZE = "little memory"


@dataclass(frozen=True, slots=True)
class Hurt:
    """A harm, from when to when."""

    harm: Harm
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the daemon takes: private bytes, descriptors, threads; and the journal's folder in bytes."""

    at_s: float
    pid: int
    private_bytes: int
    num_fds: int
    num_threads: int
    journal_bytes: int = 0


class Retained(Struct, frozen=True):
    """The retained payloads as a newcomer finds them; None where there is none."""

    status_state: str | None = None
    status_boot: str | None = None
    has_info: bool = False


@dataclass(slots=True)
class History:
    """A whole storm. `expected` is the undisturbed text by id."""

    stories: list[Story] = field(default_factory=list)
    hurts: list[Hurt] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    # While the box works, and after it was told to stop.
    retained: Retained = field(default_factory=Retained)
    retained_after_stop: Retained = field(default_factory=Retained)
    last_boot: str = ""
    # Why the box was not online in the calm, if it was not.
    trouble: str = ""
    # Ids whose result was asked for once more in the calm, and did not come.
    unrepeated: list[str] = field(default_factory=list)

    @property
    def states_in_calm(self) -> tuple[str, ...]:
        """What the box may say of itself when nothing happens any more.

        An engine that was killed while memory was short was killed for it, and runs in less from then on.
        """
        harms = {hurt.harm for hurt in self.hurts}
        is_lowered = {Harm.SQUEEZE, Harm.ENGINE_DEATH} <= harms
        return ("online", "degraded") if is_lowered else ("online",)

    def num_hurts(self, harm: Harm, start_s: float, end_s: float) -> int:
        """How often in this time."""
        return sum(h.harm is harm and h.start_s <= end_s and h.end_s >= start_s for h in self.hurts)
