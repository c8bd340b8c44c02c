"""The model manifest: YAML -> frozen structs.

Strict: an unknown key, a wrong type or a name that is no plain file name is a `ManifestError` that
names file and key. The file's own words are explained in models/README.md.
"""

import re
from pathlib import Path

import msgspec
import yaml
from msgspec import Struct

from agent.catalog.entries import ChatTemplate, ManifestFile, Model, PypiSource, Variant
from agent.errors import ManifestError

# Callers take the records from here too: they are what a manifest is made of.
__all__ = ["AUTO", "ChatTemplate", "Manifest", "Model", "PypiSource", "Variant", "load_manifest"]

AUTO = "auto"
"""Where a model is named: the default one, or for placement whichever suits the box, that one first."""

PACKAGED = Path(__file__).parents[1] / "data" / "manifest.yaml"
IN_CHECKOUT = Path(__file__).parents[2] / "models" / "manifest.yaml"
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Manifest(Struct, frozen=True):
    """The models that are known, in the order of the file at `path`; those `added` to this box come last."""

    path: Path
    models: tuple[Model, ...]
    added: tuple[str, ...] = ()

    def model(self, name: str = AUTO) -> Model:
        """The model of that name; `auto` is the default one. Raises ManifestError."""
        for model in self.models:
            if model.default if name == AUTO else model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        wrong = "no model is marked as default" if name == AUTO else f"no model is called {name!r}"
        raise ManifestError(f"{self.path}: {wrong}; name one of: {known}")

    def with_added(self, path: Path, models: tuple[Model, ...]) -> "Manifest":
        """With the models that the file at `path` adds. Raises ManifestError where a name is taken."""
        for model in models:
            if model.default:
                raise ManifestError(f"{path}: {model.name}: only the manifest has a default; drop the key")
        _check_across(path, self.models + models)
        return Manifest(self.path, self.models + models, tuple(model.name for model in models))


def load_manifest(path: Path | None = None) -> Manifest:
    """The manifest at `path`; None is the one that came with the program. Raises ManifestError."""
    path = path or _default_path()
    return Manifest(path, read_models(path))


def read_models(path: Path) -> tuple[Model, ...]:
    """The models in one file of the manifest's format. Raises ManifestError."""
    try:
        file = msgspec.convert(_read_yaml(path), ManifestFile)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{path}: {_explain(str(error))}") from error
    _check_across(path, file.models)
    return file.models


def encode(models: tuple[Model, ...]) -> bytes:
    """A file of the manifest's format, which `read_models` reads."""
    tree = msgspec.to_builtins(ManifestFile(version=1, models=models))
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text.encode()


def schema() -> bytes:
    """The JSON schema of a manifest, as it stands in models/manifest.schema.json.

    What no schema says (a name is there only once) is checked by `load_manifest`.
    """
    found = msgspec.json.encode({"$schema": SCHEMA_DIALECT, **msgspec.json.schema(ManifestFile)})
    # Python's end of text is `$` in JSON schema's patterns; docstrings are indented.
    text = re.sub(rb"\\n *", b" ", found.replace(rb"\\Z", b"$"))
    return msgspec.json.format(text, indent=2) + b"\n"


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
    if any(model.default and "chat" not in model.roles for model in models):
        raise ManifestError(f"{path}: models[].default: {defaults[0]} does not chat; mark one that does")
    if len(defaults) > 1:
        raise ManifestError(f"{path}: models[].default: true for {' and '.join(defaults)}; leave it on one")


def _check_unique(path: Path, key: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ManifestError(f"{path}: {key}: {value!r} is there more than once; rename one of them")
