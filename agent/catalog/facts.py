"""What a model file's header says to somebody who has to choose: title, size, quantisation, purpose."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.entries import Role
from agent.catalog.gguf import GgufHeader
from agent.catalog.gguf_bytes import Invalid
from agent.catalog.quant import num_params, quant_name
from agent.errors import ModelFileError

MAX_TITLE_CHARS = 64
# Models whose answer is a vector whatever the file says (`causal_attn` is off, or there is no decoder).
EMBEDDING_ARCHITECTURES = (
    "bert",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "t5encoder",
)
# llama_pooling_type in llama.cpp's include/llama.h: 0 is none; mean, the first token, the last token.
POOLING = (1, 2, 3)
RANKING = 4
# `general.type` of files that go with a model.
COMPANIONS = {"adapter": "an adapter", "mmproj": "a projector for pictures or sound", "imatrix": "an imatrix"}


class Facts(Struct, frozen=True, kw_only=True):
    """`n_params` counts weights, `n_ctx_train` is in tokens; `title` and `licence` are empty where the file
    says nothing."""

    title: str
    architecture: str
    quant: str
    n_params: int
    n_ctx_train: int
    layers: int
    has_chat_template: bool
    role: Role
    licence: str = ""


def facts_of(path: Path, header: GgufHeader) -> Facts:
    """The facts of the file at `path`. Raises ModelFileError when it is no model that could be loaded."""
    try:
        return _facts(header)
    except Invalid as error:
        raise ModelFileError(f"{path}: {error.reason}; {error.remedy}") from None


def has_chat_template(header: GgufHeader) -> bool:
    """Whether the file brings a template for conversations."""
    key = "tokenizer.chat_template"
    return bool(header.metadata.get(key) or header.lengths.get(key))


def printable(text: str) -> str:
    """One line of at most 64 characters that does nothing to a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:MAX_TITLE_CHARS].strip()


def _facts(header: GgufHeader) -> Facts:
    architecture = _text(header, "general.architecture")
    _refuse_companions(header, architecture)
    if not architecture:
        raise Invalid("it does not say its architecture", "convert it again")
    if not header.tensors:
        raise Invalid("a vocabulary without weights", "name a whole model")
    pooling = header.metadata.get(f"{architecture}.pooling_type")
    if pooling == RANKING:
        raise Invalid("a model that ranks", "name one that chats or embeds")
    is_embedding = architecture in EMBEDDING_ARCHITECTURES or pooling in POOLING
    return Facts(
        title=_text(header, "general.name"),
        architecture=architecture,
        quant=quant_name(header),
        n_params=num_params(header),
        n_ctx_train=_count(header, f"{architecture}.context_length"),
        layers=_count(header, f"{architecture}.block_count"),
        has_chat_template=has_chat_template(header),
        role="embed" if is_embedding else "chat",
        licence=_text(header, "general.license"),
    )


def _refuse_companions(header: GgufHeader, architecture: str) -> None:
    kind = _text(header, "general.type")
    if architecture == "clip":
        kind = "mmproj"
    if kind in COMPANIONS:
        raise Invalid(f"{COMPANIONS[kind]}, no model by itself", "name the model it belongs to")


def _text(header: GgufHeader, key: str) -> str:
    value = header.metadata.get(key)
    return printable(value) if isinstance(value, str) else ""


def _count(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key)
    if not isinstance(value, int) or not 0 < value < 1 << 32:
        raise Invalid(f"it does not say its {key}", "convert it again with a newer llama.cpp")
    return value
