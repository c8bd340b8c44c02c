"""llama.cpp's own vocabularies and chat templates (build/corpus.py fetches them), paired at will.

Most templates' own vocabularies are not among them. So that a template's markup is markup to the tokeniser
all the same, a vocabulary can be opened with every such string of every template appended to it.
"""

import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent.engine import llama
from agent.engine.backend import Tokenizer
from agent.places import cache_folder

FOLDER = cache_folder() / "corpus" / version("llama-cpp-python")
CONTROL, USER_DEFINED = 3, 4
# GGUF's numbers for types, and struct's letters for those of a fixed size.
STRING, ARRAY = 8, 9
FIXED = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
# <|im_start|>, </think>, [INST], MiniMax's ]~b].
MARKUP = re.compile(r"<[^\s<>{}%'\"]{1,40}>|\[/?[A-Z_]{3,}\]|\]~!?b[\[\]]|\[e~\[")


def vocabulary_names() -> list[str]:
    return sorted(path.stem.removeprefix("ggml-vocab-") for path in FOLDER.glob("*.gguf"))


def template_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("templates/*.jinja"))


@cache
def template_source(name: str) -> str:
    return (FOLDER / "templates" / f"{name}.jinja").read_text()


def markup_in(source: str) -> list[str]:
    return sorted(set(MARKUP.findall(source)))


@cache
def vocabulary(name: str) -> llama.LlamaTokenizer:
    """A vocabulary by its name; `+` after it appends the markup of all templates. Kept open."""
    path = FOLDER / f"ggml-vocab-{name.removesuffix('+')}.gguf"
    if not name.endswith("+"):
        return open_vocabulary(path)
    markup = markup_in("\n".join(map(template_source, template_names())))
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(with_markup(path.read_bytes(), markup))
        file.flush()
        return open_vocabulary(Path(file.name))


_opened: list[Any] = []


def close() -> None:
    """Give the memory of all vocabularies back; tokenizers that are still held are dead afterwards."""
    vocabulary.cache_clear()
    while _opened:
        llama.lib.llama_model_free(_opened.pop())


def open_vocabulary(path: Path) -> llama.LlamaTokenizer:
    """Raises ValueError with llama.cpp's reason when it cannot be opened."""
    llama.initialise()
    params = llama.lib.llama_model_default_params()
    params.vocab_only = True
    model = llama.lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ValueError(f"{path}: {llama._log_tail.reason()}")
    _opened.append(model)
    return llama.LlamaTokenizer(model)


class Paired:
    """A vocabulary with another model's template."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str) -> None:
        self._tokenizer = tokenizer
        self.chat_template: str | None = chat_template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def with_markup(gguf: bytes, strings: Sequence[str]) -> bytes:
    """The file of a vocabulary with strings appended: those with bars and brackets are control tokens.

    Words in angle brackets are user-defined, as Qwen's `<think>` is.
    """
    num_tensors, num_keys = struct.unpack_from("<QQ", gguf, 8)
    assert num_tensors == 0, "a vocabulary has no tensors"
    keys = list(_keys(gguf, num_keys))
    (tokens,) = (gguf[start:end] for name, start, end in keys if name == "tokenizer.ggml.tokens")
    new = [text.encode() for text in strings if _text(text.encode()) not in tokens]
    types = [USER_DEFINED if re.fullmatch(rb"</?\w.*\w>", text) else CONTROL for text in new]
    additions = {
        "tokenizer.ggml.tokens": b"".join(map(_text, new)),
        "tokenizer.ggml.token_type": struct.pack(f"<{len(new)}i", *types),
        "tokenizer.ggml.scores": bytes(4 * len(new)),
    }
    parts = [gguf[:24]]
    for name, start, end in keys:
        value = gguf[start:end]
        if name in additions:
            kind, count = struct.unpack_from("<IQ", value, 4)
            value = value[:4] + struct.pack("<IQ", kind, count + len(new)) + value[16:] + additions[name]
        parts += [_text(name.encode()), value]
    return b"".join(parts)


def _keys(gguf: bytes, count: int) -> Iterator[tuple[str, int, int]]:
    """Each key's name, and where its type and value lie."""
    at = 24
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", gguf, at)
        name, start = gguf[at + 8 : at + 8 + size].decode(), at + 8 + size
        (kind,) = struct.unpack_from("<I", gguf, start)
        at = _end(gguf, kind, start + 4)
        yield name, start, at


def _end(gguf: bytes, kind: int, at: int) -> int:
    if kind == STRING:
        (size,) = struct.unpack_from("<Q", gguf, at)
        return int(at + 8 + size)
    if kind != ARRAY:
        return at + struct.calcsize(FIXED[kind])
    element, count = struct.unpack_from("<IQ", gguf, at)
    at += 12
    if element != STRING:
        return int(at + count * struct.calcsize(FIXED[element]))
    for _ in range(count):
        at = _end(gguf, STRING, at)
    return at


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw
