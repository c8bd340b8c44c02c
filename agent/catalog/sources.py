"""Which model files there are to choose from, in the order of preference, and what is wrong with the rest."""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from agent.catalog.candidate import Candidate
from agent.catalog.entries import Model, Variant
from agent.catalog.gguf import GgufHeader
from agent.catalog.loose import LooseFile, loose_files
from agent.catalog.manifest import AUTO, Manifest
from agent.catalog.quant import quant_name
from agent.catalog.shape import Shape, shape_of
from agent.catalog.shelf import Shelf
from agent.catalog.store import FileState, Store
from agent.config import Models
from agent.errors import ManifestError, ModelFileError, ModelUnavailable

NO_TEMPLATE = "it has no chat template, so nobody can tell how to talk to it; name it with models.name to try"


class ModelFile(Struct, frozen=True, kw_only=True):
    """One file that is there and sound. `key` names its content, `order` counts models from the preferred
    one on; without a `variant` the manifest does not know it."""

    name: str
    quant: str
    sha256: str
    key: str
    path: Path
    order: int
    header: GgufHeader
    shape: Shape
    variant: Variant | None = None


Found = ModelFile | Candidate
"""What can be weighed, or what cannot and why."""


class Sources(Struct, frozen=True):
    """The files in groups, the preferred model's first, read as they are asked for: the next group's headers
    may take a second. `advice` is the next step when there is nothing to weigh."""

    groups: Iterator[tuple[Found, ...]]
    advice: str


def find_sources(
    wanted: Models, manifest: Manifest, store: Store, features: tuple[str, ...], shelf: Shelf
) -> Sources:
    """The files `models.name` and `models.variant` leave to choose from.

    Raises ModelUnavailable when the manifest has no such model, or a file named by hand is unfit.
    """
    if wanted.name.endswith(".gguf"):
        return Sources(iter([(_named_file(wanted.name, manifest, store, shelf),)]), "")
    models = _models(wanted.name, manifest)
    groups = _groups(models, wanted, manifest, store, features, shelf)
    return Sources(groups, _advice(models, wanted.variant, store))


def _groups(
    models: list[Model],
    wanted: Models,
    manifest: Manifest,
    store: Store,
    features: tuple[str, ...],
    shelf: Shelf,
) -> Iterator[tuple[Found, ...]]:
    for order, model in enumerate(models):
        found = tuple(_look(model, wanted.variant, order, store, features, shelf))
        yield tuple(map(_refuse_wordless, found)) if wanted.name == AUTO else found
    if (wanted.name, wanted.variant) == (AUTO, AUTO):
        yield tuple(_loose(manifest, store, shelf))


def _advice(models: list[Model], quant: str, store: Store) -> str:
    """Where every file that is asked for is here, or none has that quant, fetching would change nothing."""
    for model in models:
        variants = [variant for variant in model.variants if quant in (AUTO, variant.quant)]
        if not all(_is_here(variant, store) for variant in variants):
            return f"fetch it with: tampu models fetch --folder {store.folder} {model.name}"
    return "choose another with models.name or models.variant"


def _is_here(variant: Variant, store: Store) -> bool:
    try:
        return store.status(variant) is FileState.PRESENT
    except ModelFileError:  # nobody may look there: a fetch may not write there either
        return True


def _models(name: str, manifest: Manifest) -> list[Model]:
    """`auto`: the default one first, then the others that chat, in the order of the manifest."""
    if name != AUTO:
        try:
            model = manifest.model(name)
        except ManifestError as error:
            raise ModelUnavailable(str(error)) from error
        if "chat" not in model.roles:
            raise ModelUnavailable(
                f"model {name} makes embeddings and does not chat; choose another with models.name"
            )
        return [model]
    return sorted((model for model in manifest.models if "chat" in model.roles), key=lambda m: not m.default)


def _look(
    model: Model, quant: str, order: int, store: Store, features: tuple[str, ...], shelf: Shelf
) -> Iterator[Found]:
    variants = [variant for variant in model.variants if quant in (AUTO, variant.quant)]
    if not variants:
        known = ", ".join(variant.quant for variant in model.variants)
        yield _refused(model.name, quant, "", f"there is no variant {quant}, only {known}")
    for variant in variants:
        yield _variant_file(model, variant, order, store, features, shelf)


def _variant_file(
    model: Model, variant: Variant, order: int, store: Store, features: tuple[str, ...], shelf: Shelf
) -> Found:
    path = store.locate(variant)
    if complaint := _complaint(variant, store, features, shelf):
        return _refused(model.name, variant.quant, variant.file, complaint)
    try:
        header = shelf.header(path)
    except ModelFileError as error:
        return _refused(model.name, variant.quant, variant.file, str(error))
    return ModelFile(
        name=model.name,
        quant=variant.quant,
        sha256=variant.sha256,
        key=variant.sha256,
        path=path,
        order=order,
        header=header,
        shape=shape_of(header, variant.kv_bytes_per_token),
        variant=variant,
    )


def _complaint(variant: Variant, store: Store, features: tuple[str, ...], shelf: Shelf) -> str:
    path = store.locate(variant)
    try:
        state = store.status(variant)
    except ModelFileError as error:
        return str(error)
    if state is FileState.MISSING:
        return f"{path} is missing"
    if state is FileState.WRONG_SIZE:
        return _header_complaint(path, shelf)
    lacking = [name for name in variant.min_features if features and name not in features]
    return f"this CPU has no {' and no '.join(lacking)}" if lacking else ""


def _header_complaint(path: Path, shelf: Shelf) -> str:
    try:
        shelf.header(path)
    except ModelFileError as error:
        return str(error)
    return f"{path} has another size than this model"


def _named_file(name: str, manifest: Manifest, store: Store, shelf: Shelf) -> ModelFile:
    """A file named by hand: taken as it is, once it is there and its header sound."""
    path = store.folder / name
    try:
        path.stat()
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path}: no such model file; put it there or choose another with models.name"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path}: cannot be read: {error}") from error
    try:
        return _file_of(path, shelf, order=0)
    except ModelFileError as error:
        raise ModelUnavailable(str(error)) from error


def _refuse_wordless(item: Found) -> Found:
    """A base model that somebody added is no more able to chat than one put there by hand."""
    if isinstance(item, ModelFile) and not item.shape.has_chat_template:
        return _refused(item.name, item.quant, item.path.name, NO_TEMPLATE)
    return item


def _loose(manifest: Manifest, store: Store, shelf: Shelf) -> Iterator[Found]:
    """Files put there by hand come after all that the manifest has, the larger ones first."""
    found = [file for file in loose_files(store.folder, manifest, shelf) if file.role == "chat"]
    order = len(manifest.models)
    for file in sorted(found, key=lambda file: (-file.n_params, file.file)):
        if complaint := _loose_complaint(file):
            yield _refused(file.name, file.quant or "unknown", file.file, complaint)
            continue
        try:
            yield _file_of(store.folder / file.file, shelf, order)
            order += 1
        except ModelFileError as error:
            yield _refused(file.name, file.quant, file.file, str(error))


def _loose_complaint(file: LooseFile) -> str:
    return file.refusal or ("" if file.has_chat_template else NO_TEMPLATE)


def _file_of(path: Path, shelf: Shelf, order: int) -> ModelFile:
    """A file the manifest does not know. Raises ModelFileError."""
    header = shelf.header(path)
    found = path.stat()
    return ModelFile(
        name=path.stem,
        quant=quant_name(header),
        sha256="",
        # A hash would have to read the whole file.
        key=f"{path.name}:{found.st_size}:{found.st_mtime_ns}",
        path=path,
        order=order,
        header=header,
        shape=shape_of(header),
    )


def _refused(name: str, quant: str, file: str, reason: str) -> Candidate:
    return Candidate(name=name, quant=quant, file=file, is_chosen=False, fits="refused", reason=reason)
