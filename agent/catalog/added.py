"""The models added to this box: added.yaml in the models folder, in the manifest's format."""

import os
from pathlib import Path

from agent.catalog import files
from agent.catalog.entries import Model
from agent.catalog.manifest import Manifest, encode, load_manifest, read_models

ADDED = "added.yaml"


def load_catalog(manifest: Path | None, folder: Path) -> Manifest:
    """The manifest (None: the one that came with the program) and what was added to `folder`.

    Raises ManifestError when either is wrong, or both have a name or a file.
    """
    return load_manifest(manifest).with_added(folder / ADDED, load_added(folder))


def load_added(folder: Path) -> tuple[Model, ...]:
    """The models added to `folder`; none where there is no list. Raises ManifestError."""
    path = folder / ADDED
    return read_models(path) if os.path.exists(path) else ()


def record(folder: Path, model: Model) -> None:
    """Put the model on the list, in place of one with its name. The list is there whole, or as it was.

    Raises ManifestError when the list that is there cannot be read, and OSError.
    """
    others = tuple(each for each in load_added(folder) if each.name != model.name)
    _write(folder, (*others, model))


def forget(folder: Path, name: str) -> None:
    """Take the model off the list, if it is there. Raises as `record` does."""
    models = load_added(folder)
    others = tuple(each for each in models if each.name != name)
    if others:
        _write(folder, others)
    elif models:
        (folder / ADDED).unlink()


def find(models: tuple[Model, ...], name: str) -> Model | None:
    """The model of that name, or with a file of that name."""
    for model in models:
        if name == model.name or any(name == variant.file for variant in model.variants):
            return model
    return None


def _write(folder: Path, models: tuple[Model, ...]) -> None:
    with files.written_whole(folder / ADDED) as file:
        file.write(b"# Written by `tampu models add` and `remove`, in the format of the manifest.\n")
        file.write(encode(models))
