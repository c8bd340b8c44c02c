"""The models that are here: files of the catalogue and files put there by hand, and which one is chosen."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.added import load_catalog
from agent.catalog.loose import LooseFile, loose_files
from agent.catalog.manifest import Manifest, Model, Variant
from agent.catalog.shelf import Shelf
from agent.catalog.store import FileState, Store
from agent.config import Models
from agent.errors import ManifestError, ModelFileError
from agent.status import ModelIdentity


class ModelHere(Struct, frozen=True, kw_only=True):
    """One file. `name` is what `select` and `models.name` take; `refusal` why it cannot be used."""

    name: str
    quant: str
    file_bytes: int
    is_chosen: bool
    roles: tuple[str, ...] = ()
    refusal: str = ""


def models_here(
    settings: Models, chosen: ModelIdentity | None, shelf: Shelf | None = None
) -> tuple[ModelHere, ...]:
    """Every model file that is in the folder; reads headers, so it takes a while.

    `chosen` is what the daemon runs. Raises ModelFileError for a catalogue that cannot be read.
    """
    store = Store(Path(settings.folder))
    try:
        manifest = load_catalog(Path(settings.manifest) if settings.manifest else None, store.folder)
    except (ManifestError, OSError) as error:
        raise ModelFileError(str(error)) from error
    named = [here for model in manifest.models for here in _of_model(model, manifest, store, chosen)]
    by_hand = [_of_file(file, chosen) for file in loose_files(store.folder, manifest, shelf)]
    return (*named, *by_hand)


def _of_model(
    model: Model, manifest: Manifest, store: Store, chosen: ModelIdentity | None
) -> list[ModelHere]:
    return [
        ModelHere(
            name=model.name,
            quant=variant.quant,
            file_bytes=variant.file_bytes,
            is_chosen=chosen is not None and (chosen.name, chosen.quant) == (model.name, variant.quant),
            roles=model.roles,
            refusal="" if state is FileState.PRESENT else str(state),
        )
        for variant in model.variants
        if (state := _state(variant, store)) is not FileState.MISSING
    ]


def _state(variant: Variant, store: Store) -> FileState | str:
    try:
        return store.status(variant)
    except ModelFileError as error:
        return str(error)


def _of_file(file: LooseFile, chosen: ModelIdentity | None) -> ModelHere:
    return ModelHere(
        name=file.file,
        quant=file.quant,
        file_bytes=file.file_bytes,
        # A file that the manifest does not know has no hash, and is called as it is without its ending.
        is_chosen=chosen is not None and not chosen.sha256 and chosen.name == Path(file.file).stem,
        roles=() if file.refusal else (file.role,),
        refusal=file.refusal,
    )
