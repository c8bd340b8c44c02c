"""A backend without a model: deterministic tokens, finite cells, failures on demand.

The next token is a function of everything the slot holds, so a row at a wrong position, a cell too
many or another sequence's token changes the answer. What llama.cpp would abort the process for
(a gap in the positions, too many rows or outputs, logits nobody asked for) is an AssertionError.
"""

import ast
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.engine.backend import BatchRows, Buffer, DecodeStatus, SpecialToken
from agent.engine.messages import Forecast
from agent.errors import InsufficientMemory
from agent.request import Sampling
from tests.support.gbnf import Grammar, Stack

BOS, END, TURN, TURN_END, MASK, TOOL = range(256, 262)
FIRST_WORD = 262
SPECIALS = {
    "<s>": SpecialToken(BOS, is_control=True, strips_left=False, strips_right=False),
    "</s>": SpecialToken(END, is_control=True, strips_left=False, strips_right=False),
    "<|turn|>": SpecialToken(TURN, is_control=True, strips_left=False, strips_right=True),
    "<|end|>": SpecialToken(TURN_END, is_control=True, strips_left=False, strips_right=False),
    "<mask>": SpecialToken(MASK, is_control=True, strips_left=True, strips_right=False),
    "<tool>": SpecialToken(TOOL, is_control=False, strips_left=False, strips_right=False),
}
# What answers are made of. The euro sign and the llama (an emoji) come in halves, as BPE makes them.
WORDS = (
    b"tam",
    b"pu",
    b" road",
    b" stone",
    b"\n",
    b"\xe2\x82",
    b"\xac",
    b"\xf0\x9f",
    b"\xa6\x99",
    b" ab",
    b"a",
)
WORD_TOKENS = range(FIRST_WORD, FIRST_WORD + len(WORDS))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "<|turn|>assistant\n"
)
# One in so many tokens ends an answer.
END_EVERY = 40

Script = Callable[[int, BatchRows], DecodeStatus]
"""What the n-th decode (from 0) shall say about these rows."""


class FakeTokenizer:
    """Bytes are tokens 0 to 255; control tokens, one user-defined token and a few words follow."""

    bos: int | None = BOS
    bos_text = "<s>"
    eos_text = "</s>"

    def __init__(
        self, specials: Mapping[str, SpecialToken] = SPECIALS, chat_template: str | None = TEMPLATE
    ) -> None:
        self.specials = specials
        self.chat_template = chat_template

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """As llama.cpp does: the longest first, and control strings only when asked."""
        fragments: list[str | int] = [text]
        for string in sorted(self.specials, key=len, reverse=True):
            special = self.specials[string]
            if parse_special or not special.is_control:
                fragments = [part for fragment in fragments for part in _split(fragment, string, special)]
        return [
            token
            for part in fragments
            for token in ([part] if isinstance(part, int) else part.encode("utf-8", "replace"))
        ]

    def piece(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        if token >= FIRST_WORD:
            return WORDS[token - FIRST_WORD]
        return b"<tool>" if token == TOOL else b""

    def is_end(self, token: int) -> bool:
        return token in (END, TURN_END)


@dataclass(slots=True)
class FakeChain:
    """`draws` and `redraws` count first and second choices; `readings` are the grammar's."""

    sampling: Sampling
    draws: int
    redraws: int = 0
    grammar: Grammar | None = None
    readings: set[Stack] = field(default_factory=set)


class FakeBackend:
    """See agent.engine.backend.Backend. `step_s` makes every decode take that long."""

    description = "fake"
    model_bytes = 0
    forecast = Forecast(weights_bytes=0, compute_bytes=50, cell_bytes=1, fixed_bytes=50)

    def __init__(
        self,
        *,
        num_cells: int = 256,
        num_slots: int = 4,
        n_batch: int = 32,
        can_share: bool = True,
        can_shift: bool = True,
        n_ctx_train: int = 1 << 20,
        script: Script = lambda _number, _rows: DecodeStatus.OK,
        step_s: float = 0.0,
        tokenizer: FakeTokenizer | None = None,
    ) -> None:
        self.can_share = can_share
        self.can_shift = can_shift
        self.n_ctx_train = n_ctx_train
        self.num_cells = num_cells
        self.num_slots = self.max_running = num_slots
        self.n_batch = n_batch
        self.tokenizer = tokenizer or FakeTokenizer()
        self.num_decodes = 0
        self.num_refused = 0
        self.num_resizes = 0
        # What the next resizes do: refuse for want of memory, or lose what the slots hold.
        self.refuses_resize = False
        self.loses_state = False
        self.max_used = 0
        self.num_open_chains = 0
        self._script = script
        self._step_s = step_s
        # What a slot holds: (token, cell). A copied slot has the same cells.
        self._slots: list[list[tuple[int, int]]] = [[] for _ in range(num_slots)]
        self._next_cell = 0
        self._logits: dict[int, tuple[int, ...]] = {}

    @property
    def num_used(self) -> int:
        return len({cell for slot in self._slots for _, cell in slot})

    def decode(self, batch: BatchRows) -> DecodeStatus:
        rows = list(zip(batch.tokens, batch.positions, batch.slots, batch.outputs, strict=True))
        assert 0 < len(rows) <= self.n_batch, f"{len(rows)} rows in a batch of {self.n_batch}"
        assert sum(batch.outputs) <= self.num_slots, "more outputs than logits were reserved for"
        time.sleep(self._step_s)
        status = self._script(self.num_decodes, batch)
        self.num_decodes += 1
        self._logits = {}
        if status is DecodeStatus.OK and self.num_used + len(rows) > self.num_cells:
            self.num_refused += 1
            status = DecodeStatus.NO_CELLS
        if status is DecodeStatus.NO_CELLS:
            return status
        # A failure comes too late for the rows before it: their cells are taken.
        done = rows if status is DecodeStatus.OK else rows[: len(rows) // 2]
        for row, (token, position, slot, output) in enumerate(done):
            cells = self._slots[slot]
            assert position == len(cells), f"slot {slot} holds {len(cells)} positions and is given {position}"
            cells.append((token, self._next_cell))
            self._next_cell += 1
            if output:
                self._logits[row] = tuple(token for token, _ in cells)
        self.max_used = max(self.max_used, self.num_used)
        return status

    def new_chain(
        self, sampling: Sampling, draws: int, grammar: str | None = None, tokens: Sequence[int] = ()
    ) -> FakeChain:
        self.num_open_chains += 1
        if grammar is None:
            return FakeChain(sampling, draws)
        parsed = Grammar(grammar)
        chain = FakeChain(sampling, len(tokens), draws - len(tokens), parsed, parsed.start())
        for token in tokens:
            self.accept(chain, token)
        return chain

    def sample(self, chain: FakeChain, row: int) -> int:
        assert row in self._logits, f"row {row} has no logits"
        if chain.sampling.temperature == 0:
            return next_token(self._logits[row])
        chain.draws += 1
        return next_token(self._logits[row], (chain.sampling, chain.draws))

    def allows(self, chain: FakeChain, token: int) -> bool:
        is_end = self.tokenizer.is_end(token)
        return () in chain.readings if is_end else bool(self._after(chain, token))

    def resample(self, chain: FakeChain, row: int) -> int | None:
        allowed = [token for token in (*range(32, 127), *WORD_TOKENS, END) if self.allows(chain, token)]
        chain.redraws += 1
        randomness = (chain.sampling, chain.redraws) if chain.sampling.temperature else None
        return allowed[number(self._logits[row], ("again", randomness)) % len(allowed)] if allowed else None

    def accept(self, chain: FakeChain, token: int) -> None:
        assert self.allows(chain, token), f"llama.cpp would abort: token {token} is refused"
        chain.readings = self._after(chain, token)

    def _after(self, chain: FakeChain, token: int) -> set[Stack]:
        piece = self.tokenizer.piece(token)
        assert chain.grammar is not None
        return chain.grammar.accept(chain.readings, piece.decode()) if piece.isascii() and piece else set()

    def free_chain(self, chain: FakeChain) -> None:
        self.num_open_chains -= 1

    def copy(self, source: int, target: int, count: int) -> None:
        assert self.can_share, "this cache cannot be shared"
        assert not self._slots[target], f"slot {target} is not empty"
        assert 0 < count <= len(self._slots[source]), f"slot {source} does not hold {count} positions"
        self._slots[target] = self._slots[source][:count]

    def resize(self, num_cells: int) -> bool:
        if self.refuses_resize:
            raise InsufficientMemory("no memory")
        self.num_resizes += 1
        is_lost = self.loses_state or num_cells == 0 or self.num_cells == 0
        assert is_lost or self.num_used <= num_cells, "what is used does not fit"
        self.num_cells = num_cells
        if is_lost:
            self._slots = [[] for _ in range(self.num_slots)]
        return not is_lost

    def remove(self, slot: int, start: int, end: int = -1) -> bool:
        assert 0 <= slot < self.num_slots, f"no slot {slot}"
        del self._slots[slot][start : None if end < 0 else end]
        return True

    def shift(self, slot: int, start: int, delta: int) -> None:
        assert self.can_shift, "this cache cannot be shifted"
        shifted = {cell for _, cell in self._slots[slot][start + delta :]}
        others = {cell for i, cells in enumerate(self._slots) if i != slot for _, cell in cells}
        assert not shifted & others, "cells of another slot were shifted"

    def save(self, slot: int) -> bytes:
        return repr([token for token, _ in self._slots[slot]]).encode()

    def restore(self, slot: int, state: Buffer) -> bool:
        assert not self._slots[slot], f"slot {slot} is not empty"
        tokens = ast.literal_eval(bytes(state).decode())
        if self.num_used + len(tokens) > self.num_cells:
            return False
        for token in tokens:
            self._slots[slot].append((token, self._next_cell))
            self._next_cell += 1
        return True

    def next_position(self, slot: int) -> int:
        return len(self._slots[slot])

    def set_threads(self, count: int) -> None:
        """Nothing to compute with."""

    def close(self) -> None:
        """Nothing to free."""


def next_token(history: tuple[int, ...], randomness: object = None) -> int:
    """The model: what follows these tokens, given the random numbers drawn."""
    drawn = number(history, randomness)
    if drawn % END_EVERY == 0:
        return END
    return FIRST_WORD + drawn // END_EVERY % len(WORDS)


def number(history: tuple[int, ...], randomness: object) -> int:
    """A number that follows from all of this."""
    return int.from_bytes(hashlib.blake2b(repr((history, randomness)).encode(), digest_size=4).digest())


def _split(fragment: str | int, string: str, special: SpecialToken) -> list[str | int]:
    if isinstance(fragment, int):
        return [fragment]
    parts: list[str | int] = []
    texts = fragment.split(string)
    for index, text in enumerate(texts):
        if special.strips_left and index < len(texts) - 1:
            text = text.rstrip(" \t\n\v\f\r")
        if special.strips_right and index > 0:
            text = text.lstrip(" \t\n\v\f\r")
        parts += [text, special.id]
    return parts[:-1]
