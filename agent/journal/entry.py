"""The journal's words: an entry, its terminal frames, what a restart finds, what is written together."""

from dataclasses import dataclass, field
from enum import IntFlag, StrEnum

from msgspec import Struct

from agent.findings import Finding

# What a frame costs besides its bytes, so that many empty ones are not for nothing.
FRAME_OVERHEAD_BYTES = 16


class Final(Struct, frozen=True, array_like=True):
    """One terminal publish; `suffix` is put after the request's reply topic."""

    payload: bytes
    suffix: str = ""


def size_of(frames: tuple[Final, ...]) -> int:
    """What these frames count against the journal's bytes; never 0."""
    texts = sum(len(frame.payload) + len(frame.suffix) + FRAME_OVERHEAD_BYTES for frame in frames)
    return FRAME_OVERHEAD_BYTES + texts


class EntryState(StrEnum):
    """`ended`: the broker has not acknowledged the terminal frames yet."""

    LIVE = "live"
    ENDED = "ended"
    DELIVERED = "delivered"


class Part(IntFlag):
    """What of an entry is written by itself, so that a changed mark does not cost the text again."""

    ROW = 1
    INTENT = 2
    FRAMES = 4


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """One request. For readers: `client` to `is_alone`; the rest is the journal's own.

    `intent` is what the front needs to run the request again or to reach who asked; once the request has
    ended it leaves memory, and stays on disk until delivery. `run` is 1 at first and grows with every start
    of the daemon that finds the entry live. `is_alone`: nothing else is computed beside it.
    """

    client: str
    id: str
    digest: bytes = field(repr=False)
    # What people wrote stays out of logs.
    intent: bytes = field(default=b"", repr=False)
    run: int = 1
    state: EntryState = EntryState.LIVE
    is_alone: bool = False

    seq: int
    """Names the row; in order of arrival."""
    deadline: float | None = None
    """On the journal's clock."""
    stored_at: float = 0.0
    """When the remaining seconds were last put into a batch."""
    touched_at: float = 0.0
    """When its state last changed."""
    frames: tuple[Final, ...] | None = field(default=None, repr=False)
    """None while live, and when they are on disk only or gone."""
    num_intent_bytes: int = 0
    num_frame_bytes: int = 0
    """0: there are none, here or on disk."""
    is_on_disk: bool = False
    is_gone: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.client, self.id

    @property
    def has_text(self) -> bool:
        """Whether its terminal frames are still somewhere."""
        return self.num_frame_bytes > 0

    @property
    def num_bytes(self) -> int:
        return self.num_intent_bytes + self.num_frame_bytes


class Recovered(Struct, frozen=True):
    """What a start has found: a live request with the seconds it has left (None: no deadline; 0 or less:
    expired meanwhile), or one that has ended and whose frames wait for their acknowledgement."""

    entry: Entry
    remaining_s: float | None
    finals: tuple[Final, ...] = ()


class Row(Struct, frozen=True, array_like=True):
    """An entry as its table has it. `deadline` and `touched_at` are on the clock of the boot `boot_id`;
    `remaining_s` is what was left when the row was written."""

    seq: int
    client: str
    id: str
    digest: bytes
    run: int
    state: EntryState
    is_alone: int
    boot_id: str
    deadline: float | None
    remaining_s: float | None
    touched_at: float


@dataclass(slots=True)
class Batch:
    """One transaction. None in place of a text removes it. `parts` is what of which entry it mirrors."""

    rows: list[Row] = field(default_factory=list)
    intents: list[tuple[int, bytes | None]] = field(default_factory=list)
    frames: list[tuple[int, tuple[Final, ...] | None]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    notes: dict[str, bytes | None] = field(default_factory=dict)
    parts: dict[Entry, Part] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.parts or self.gone or self.notes)


@dataclass(slots=True, kw_only=True)
class Written:
    """How a write went: `fault` is None when it was done. `is_anew`: nothing was written, because the file
    is another one than before; write everything."""

    fault: Finding | None = None
    is_anew: bool = False
    notices: list[Finding] = field(default_factory=list)
