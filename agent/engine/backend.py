"""The narrow port to the library that computes: everything the engine asks of llama.cpp.

`LlamaBackend` (llama.py) is the real one; the tests' fake fits on a page because this does. One
thread calls the backend; its tokenizer may be called from another at the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from agent.engine.messages import Forecast
from agent.request import Sampling

Buffer = bytes | memoryview
"""A saved state; a writable view of a mapped file where it is large."""

Chain = Any
"""A sampling chain; only the backend that made it looks inside."""


class DecodeStatus(IntEnum):
    """What `llama_decode` says, with every negative code folded into ERROR."""

    OK = 0
    NO_CELLS = 1
    ABORTED = 2
    ERROR = -1


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that a chat template may spell out. The strips swallow white space beside its text."""

    id: int
    is_control: bool
    strips_left: bool
    strips_right: bool


class Tokenizer(Protocol):
    """The model's vocabulary. Safe to call from any thread."""

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        """Control and user-defined tokens by their text."""

    @property
    def bos(self) -> int | None:
        """The token a prompt must start with, or None when the model wants none."""

    @property
    def bos_text(self) -> str: ...

    @property
    def eos_text(self) -> str: ...

    @property
    def chat_template(self) -> str | None:
        """The jinja source inside the model file."""

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Tokens of a text, no BOS added; control token strings stay plain text unless asked."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for control tokens."""

    def is_end(self, token: int) -> bool:
        """True for tokens that end an answer."""


class BatchRows(Protocol):
    """The flat view of a batch that a backend needs; see batch.py."""

    tokens: list[int]
    positions: list[int]
    slots: list[int]
    outputs: list[bool]


class Backend(Protocol):
    """A loaded model with a context of `num_cells` KV cells and `num_slots` sequence ids.

    The context comes and goes by `resize`; without one (0 cells) nothing may be decoded, and the
    slots are empty.
    """

    @property
    def description(self) -> str:
        """The model in a few words."""

    @property
    def model_bytes(self) -> int:
        """The size of its tensors."""

    @property
    def n_ctx_train(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def forecast(self) -> Forecast:
        """What memory the model and its context take."""

    @property
    def num_cells(self) -> int: ...

    @property
    def num_slots(self) -> int: ...

    @property
    def can_share(self) -> bool:
        """True when slots may share cells and drop a tail: an attention cache that keeps all positions."""

    @property
    def can_shift(self) -> bool:
        """True when positions can be renumbered, so that a slot can lose a part in its middle."""

    @property
    def n_batch(self) -> int:
        """The most rows one decode may have."""

    def resize(self, num_cells: int) -> bool:
        """Give the context another number of cells around what the slots hold; 0 frees it.

        True when the slots hold what they held, their cells still shared; False when they are empty
        now. Raises InsufficientMemory; then the old size is kept, with its content, where that can be.
        """

    def decode(self, batch: BatchRows) -> DecodeStatus:
        """Compute the rows; on OK the output rows have logits, on NO_CELLS nothing changed."""

    def new_chain(
        self, sampling: Sampling, draws: int, grammar: str | None = None, tokens: Sequence[int] = ()
    ) -> Chain:
        """A sampling chain that stands after these tokens of its answer and `draws` random numbers.

        `grammar` is GBNF with the start rule `root`. Raises Internal when it cannot be used, or when
        the tokens do not keep to it.
        """

    def sample(self, chain: Chain, row: int) -> int:
        """The next token; of a chain with a grammar a first choice, to be checked and accepted."""

    def allows(self, chain: Chain, token: int) -> bool:
        """True when the chain's grammar has the token next. End tokens only end what is complete."""

    def resample(self, chain: Chain, row: int) -> int | None:
        """A second choice, among the tokens the chain's grammar has next; None when there are none."""

    def accept(self, chain: Chain, token: int) -> None:
        """Tell a chain with a grammar of the token taken, which it must allow."""

    def free_chain(self, chain: Chain) -> None: ...

    def copy(self, source: int, target: int, count: int) -> None:
        """Let an empty slot hold the first `count` positions of another, in the same cells."""

    def remove(self, slot: int, start: int, end: int = -1) -> bool:
        """Free the cells of a slot in positions `start` to `end` (-1: to the last).

        False when this kind of cache cannot drop a part: nothing was freed then. From 0 on always works.
        """

    def shift(self, slot: int, start: int, delta: int) -> None:
        """Renumber the positions of a slot from `start` on. Only cells no other slot shares."""

    @property
    def max_running(self) -> int:
        """The most sequences that may be computed at once; the other slots keep profiles."""

    def save(self, slot: int) -> Buffer:
        """What a slot holds, for `restore` in a context of the same model, KV type and build.

        Empty when that cannot be said now.
        """

    def restore(self, slot: int, state: Buffer) -> bool:
        """Fill an empty slot with what `save` gave; False, and still empty, when it does not fit."""

    def next_position(self, slot: int) -> int:
        """One past the last position the slot holds: what the ledger is checked against."""

    def set_threads(self, count: int) -> None:
        """Compute with so many threads from the next decode on."""

    def close(self) -> None: ...
