"""The model's vocabulary behind backend.Tokenizer."""

import ctypes
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from agent.engine.backend import SpecialToken
from agent.engine.llama.bindings import lib

# The longest piece of any known vocabulary is far below; a longer one is asked for again.
_PIECE_BYTES = 256
# For some vocabularies llama.cpp finds words with std::regex, which recurses for each of their characters:
# a word of 25,000 ends the process where the stack has 8 MiB. Nothing that is meant to be read has such.
_LONGEST_WORD = 4096
# What llama.cpp takes for white space.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LONG_WORDS = re.compile(
    "|".join(f"(?<!{c}){c}{{{_LONGEST_WORD},}}" for c in (f"[{_SPACE}]", f"[^{_SPACE}]"))
)


class LlamaTokenizer:
    """See backend.Tokenizer. Reads only constant data, so any thread may call it."""

    def __init__(self, model: Any) -> None:
        self.vocab = self._vocab = lib.llama_model_get_vocab(model)
        self._num_tokens = lib.llama_vocab_n_tokens(self._vocab)
        template = lib.llama_model_chat_template(model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None

    @cached_property
    def unspoken(self) -> frozenset[int]:
        """The tokens that are no text in an answer, and no end of it."""
        hidden = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        return frozenset(
            token
            for token in range(self._num_tokens)
            if lib.llama_vocab_get_attr(self._vocab, token) & hidden and not self.is_end(token)
        )

    @cached_property
    def specials(self) -> Mapping[str, SpecialToken]:
        found = {}
        for token in range(self._num_tokens):
            attributes = lib.llama_vocab_get_attr(self._vocab, token)
            if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED):
                found[self._text(token)] = SpecialToken(
                    id=token,
                    is_control=bool(attributes & lib.LLAMA_TOKEN_ATTR_CONTROL),
                    strips_left=bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP),
                    strips_right=bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP),
                )
        return found

    @property
    def bos(self) -> int | None:
        token = lib.llama_vocab_bos(self._vocab)
        return token if lib.llama_vocab_get_add_bos(self._vocab) and token >= 0 else None

    @property
    def bos_text(self) -> str:
        return self._text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._text(lib.llama_vocab_eos(self._vocab))

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        return [token for part in self._parts(text) for token in self._tokenize(part, parse_special)]

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        # A lone surrogate (JSON can spell one) has no UTF-8: it becomes "?".
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, parse_special)
        if count < 0:
            raise ValueError(f"{len(data)} bytes make more than {room} tokens")
        return list(tokens[:count])

    def _parts(self, text: str) -> Iterator[str]:
        """The text without words that are too long, which are cut; no special string is."""
        start = 0
        for word in _LONG_WORDS.finditer(text):
            for cut in range(word.start() + _LONGEST_WORD, word.end(), _LONGEST_WORD):
                around = (text.find(s, cut - len(s) + 1, cut + len(s) - 1) for s in self.specials)
                cut = min([cut, *(place for place in around if place >= 0)])
                yield text[start:cut]
                start = cut
        yield text[start:]

    def piece(self, token: int) -> bytes:
        size = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def is_end(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text: str = lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
        return text
