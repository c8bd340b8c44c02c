"""Which model files there are to choose from, in the order of preference, and what is wrong with the rest."""

from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from agent.catalog.candidate import Candidate
from agent.catalog.gguf import GgufHeader, read_header
from agent.catalog.manifest import AUTO, Manifest, Model, Variant
from agent.catalog.shape import Shape, shape_of
from agent.catalog.store import FileState, Store
from agent.config import Models
from agent.errors import ManifestError, ModelFileError, ModelUnavailable

ReadHeader = Callable[[Path], GgufHeader]


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


class Sources(Struct, frozen=True):
    """What can be weighed, and what cannot; `advice` is the next step when there is nothing to weigh."""

    files: tuple[ModelFile, ...]
    refused: tuple[Candidate, ...]
    advice: str


def find_sources(
    wanted: Models,
    manifest: Manifest,
    store: Store,
    features: tuple[str, ...],
    read: ReadHeader = read_header,
) -> Sources:
    """The files `models.name` and `models.variant` leave to choose from.

    Raises ModelUnavailable when the manifest has no such model, or a file named by hand is unfit.
    """
    if wanted.name.endswith(".gguf"):
        return Sources((_named_file(store.folder / wanted.name, read),), (), "")
    models = _models(wanted.name, manifest)
    found = list(_look(models, wanted.variant, store, features, read))
    files = tuple(item for item in found if isinstance(item, ModelFile))
    refused = tuple(item for item in found if isinstance(item, Candidate))
    return Sources(
        files, refused, f"fetch it with: tampu models fetch --folder {store.folder} {models[0].name}"
    )


def _models(name: str, manifest: Manifest) -> list[Model]:
    """`auto`: the default one first, then the others in the order of the manifest."""
    try:
        first = manifest.model(name)
    except ManifestError as error:
        if name != AUTO or not manifest.models:
            raise ModelUnavailable(str(error)) from error
        first = manifest.models[0]
    if name != AUTO:
        return [first]
    return [first, *(model for model in manifest.models if model is not first and "chat" in model.roles)]


def _look(
    models: list[Model], quant: str, store: Store, features: tuple[str, ...], read: ReadHeader
) -> Iterator[ModelFile | Candidate]:
    for order, model in enumerate(models):
        variants = [variant for variant in model.variants if quant in (AUTO, variant.quant)]
        if not variants:
            known = ", ".join(variant.quant for variant in model.variants)
            yield _refused(model.name, quant, "", f"there is no such variant; there are {known}")
        for variant in variants:
            yield _variant_file(model, variant, order, store, features, read)


def _variant_file(
    model: Model, variant: Variant, order: int, store: Store, features: tuple[str, ...], read: ReadHeader
) -> ModelFile | Candidate:
    path = store.locate(variant)
    if complaint := _complaint(variant, store, features, read):
        return _refused(model.name, variant.quant, variant.file, complaint)
    try:
        header = read(path)
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


def _complaint(variant: Variant, store: Store, features: tuple[str, ...], read: ReadHeader) -> str:
    path = store.locate(variant)
    try:
        state = store.status(variant)
    except ModelFileError as error:
        return str(error)
    if state is FileState.MISSING:
        return f"{path} is missing"
    if state is FileState.WRONG_SIZE:
        return _header_complaint(path, read)
    lacking = [name for name in variant.min_features if features and name not in features]
    return f"this CPU has no {' and no '.join(lacking)}" if lacking else ""


def _header_complaint(path: Path, read: ReadHeader) -> str:
    try:
        read(path)
    except ModelFileError as error:
        return str(error)
    return f"{path} has another size than this model"


def _named_file(path: Path, read: ReadHeader) -> ModelFile:
    """A file named by hand: taken as it is, once its header is sound."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path}: no such model file; put it there or choose another with models.name"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path}: cannot be read: {error}") from error
    try:
        header = read(path)
    except ModelFileError as error:
        raise ModelUnavailable(str(error)) from error
    return ModelFile(
        name=path.stem,
        quant="unknown",
        sha256="",
        # A hash would have to read the whole file.
        key=f"{path.name}:{found.st_size}:{found.st_mtime_ns}",
        path=path,
        order=0,
        header=header,
        shape=shape_of(header),
    )


def _refused(name: str, quant: str, file: str, reason: str) -> Candidate:
    return Candidate(name=name, quant=quant, file=file, is_chosen=False, fits="refused", reason=reason)
