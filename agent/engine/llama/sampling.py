"""Sampling chains of llama.cpp: how tokens are drawn, with a grammar and without.

Without a grammar a chain is one `llama_sampler_chain`. With one, each token is drawn as if there
were none, checked alone against the grammar, and only when it is refused drawn again among what
the grammar allows: a check takes microseconds, filtering a vocabulary milliseconds.

A refused token that a grammar is told
of, or an end token before its time, ends the process (an exception nobody catches, GGML_ABORT):
nothing is accepted here that was not checked.
"""

import array
import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.engine.llama.bindings import lib
from agent.engine.llama.tokenizer import LlamaTokenizer
from agent.errors import Internal
from agent.request import Sampling

# Penalties look back so far: over any usual answer. They cost nothing by their length.
PENALTY_TOKENS = 4096
# A token is drawn again among so many of the likeliest; among all only if none of these is allowed.
NUM_LIKELIEST = 1024


@dataclass(slots=True)
class LlamaChain:
    """`plain` is a whole chain. With a `grammar`, the others are applied one by one.

    `draw` and `redraw` draw first and second choices, each from random numbers of its own: the
    number of tokens and the number of draws then say how far each has come.
    """

    plain: Any = None
    grammar: Any = None
    penalties: Any = None
    narrowing: list[Any] = field(default_factory=list)
    draw: Any = None
    redraw: Any = None


class LlamaSampling:
    """Makes and uses the chains of one vocabulary."""

    def __init__(self, tokenizer: LlamaTokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab = tokenizer.vocab
        self._num_tokens: int = lib.llama_vocab_n_tokens(self._vocab)
        self._likeliest = lib.llama_sampler_init_top_k(NUM_LIKELIEST)
        self._argmax = lib.llama_sampler_init_greedy()
        self._candidates: _Candidates | None = None
        self._one = (lib.llama_token_data * 1)()

    def close(self) -> None:
        """Free what all chains share."""
        lib.llama_sampler_free(self._likeliest)
        lib.llama_sampler_free(self._argmax)

    # ---- chains ------------------------------------------------------------------------------

    def new(self, sampling: Sampling, draws: int, grammar: str | None, tokens: Sequence[int]) -> LlamaChain:
        """See Backend.new_chain."""
        chain = LlamaChain(penalties=self._penalties(sampling), narrowing=self._narrowing(sampling))
        if grammar is None:
            chain.draw = self._drawing(sampling, draws)
            self._join(chain)
            for token in tokens if chain.penalties else ():
                lib.llama_sampler_accept(chain.plain, token)
            return chain
        # A first choice was drawn for each token, a second one for those refused.
        chain.draw = self._drawing(sampling, len(tokens))
        chain.redraw = self._drawing(sampling, draws - len(tokens))
        # An empty text would be taken, as no grammar at all.
        if grammar:
            chain.grammar = lib.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        if not chain.grammar:
            self.free(chain)
            raise Internal("llama.cpp does not take the grammar made of the request's schema")
        for token in tokens:
            if not self.allows(chain, token):
                self.free(chain)
                raise Internal("the answer so far does not keep to the request's schema")
            self.accept(chain, token)
        return chain

    def free(self, chain: LlamaChain) -> None:
        """Free the samplers of a chain."""
        if chain.plain:
            lib.llama_sampler_free(chain.plain)
            return
        for sampler in (chain.grammar, chain.penalties, chain.draw, chain.redraw, *chain.narrowing):
            if sampler:
                lib.llama_sampler_free(sampler)

    def _penalties(self, sampling: Sampling) -> Any:
        repeat, frequency, presence = (
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        if (repeat, frequency, presence) == (1, 0, 0):
            return None
        return lib.llama_sampler_init_penalties(self._num_tokens, PENALTY_TOKENS, repeat, frequency, presence)

    def _narrowing(self, sampling: Sampling) -> list[Any]:
        """What leaves out the unlikely, in llama.cpp's own order."""
        if sampling.temperature == 0:
            return []
        samplers = []
        if sampling.top_k:
            samplers.append(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            samplers.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p:
            samplers.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        return [*samplers, lib.llama_sampler_init_temp(sampling.temperature)]

    def _drawing(self, sampling: Sampling, num_skipped: int) -> Any:
        """The last of the chain. A choice among one candidate uses up exactly one random number."""
        if sampling.temperature == 0:
            return lib.llama_sampler_init_greedy()
        drawing = lib.llama_sampler_init_dist(sampling.seed)
        for _ in range(num_skipped):
            self._apply(drawing, self._lone(0))
        return drawing

    def _join(self, chain: LlamaChain) -> None:
        chain.plain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in (chain.penalties, *chain.narrowing, chain.draw):
            if sampler:
                lib.llama_sampler_chain_add(chain.plain, sampler)

    # ---- tokens ------------------------------------------------------------------------------

    def sample(self, chain: LlamaChain, context: Any, row: int) -> int:
        """See Backend.sample."""
        if chain.grammar is None:
            token: int = lib.llama_sampler_sample(chain.plain, context, row)
            return token
        candidates = self._load(context, row)
        return self._choose(chain, candidates, chain.draw)

    def allows(self, chain: LlamaChain, token: int) -> bool:
        """See Backend.allows."""
        if token in self._tokenizer.unspoken:
            return False
        lone = self._lone(token)
        self._apply(chain.grammar, lone)
        return not math.isinf(self._one[0].logit)

    def resample(self, chain: LlamaChain, context: Any, row: int) -> int | None:
        """See Backend.resample."""
        for is_narrow in (True, False):
            candidates = self._load(context, row, without=self._tokenizer.unspoken)
            if is_narrow:
                self._apply(self._likeliest, candidates)
            self._apply(chain.grammar, candidates)
            candidates.sorted = False  # what is refused keeps its place and loses its logit
            self._apply(self._argmax, candidates)
            if not math.isinf(candidates.data[candidates.selected].logit):
                return self._choose(chain, candidates, chain.redraw)
        return None

    def accept(self, chain: LlamaChain, token: int) -> None:
        """See Backend.accept."""
        lib.llama_sampler_accept(chain.grammar, token)
        if chain.penalties:
            lib.llama_sampler_accept(chain.penalties, token)

    def _choose(self, chain: LlamaChain, candidates: Any, drawing: Any) -> int:
        for sampler in (chain.penalties, *chain.narrowing, drawing):
            if sampler:
                self._apply(sampler, candidates)
        token: int = candidates.data[candidates.selected].id
        return token

    def _load(self, context: Any, row: int, without: Sequence[int] | frozenset[int] = ()) -> Any:
        if self._candidates is None:
            self._candidates = _Candidates(self._num_tokens)
        logits = lib.llama_get_logits_ith(context, row)
        return self._candidates.load(logits, without)

    def _lone(self, token: int) -> Any:
        self._one[0].id, self._one[0].logit = token, 0.0
        return lib.llama_token_data_array(data=self._one, size=1, selected=-1, sorted=False)

    def _apply(self, sampler: Any, candidates: Any) -> None:
        lib.llama_sampler_apply(sampler, ctypes.byref(candidates))


class _Candidates:
    """All tokens with their logits, as llama.cpp's samplers take them; 24 bytes a token, made once.

    Filled by strided views: a loop over the vocabulary would take longer than many a decode.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._data = (lib.llama_token_data * num_tokens)()
        views = memoryview(self._data).cast("B")
        views.cast("i")[0::3] = memoryview(array.array("i", range(num_tokens)))
        self._logits = views.cast("f")[1::3]
        self._fresh = bytes(self._data)

    def load(self, logits: Any, without: Sequence[int] | frozenset[int]) -> Any:
        """Every token with its logit, and none for those left out."""
        ctypes.memmove(self._data, self._fresh, len(self._fresh))
        row = (ctypes.c_float * self._num_tokens).from_address(ctypes.addressof(logits.contents))
        self._logits[:] = memoryview(row).cast("B").cast("f")
        for token in without:
            self._data[token].logit = -math.inf
        return lib.llama_token_data_array(data=self._data, size=self._num_tokens, selected=-1, sorted=False)
