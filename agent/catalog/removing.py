"""A model of this box stops being one: its files and its record are deleted."""

import contextlib
import os
from pathlib import Path

from agent.catalog import added, files
from agent.catalog.entries import Model, is_gguf_name
from agent.catalog.files import Progress, quiet
from agent.catalog.manifest import Manifest
from agent.errors import ModelFileError


def remove_model(
    folder: Path, manifest: Manifest, name: str, is_sure: bool = False, progress: Progress = quiet
) -> tuple[Path, ...]:
    """Delete the files in `folder` of the model called `name`, and its record; what was deleted.

    `name` may be a file's as well; `manifest` is the one without what was added. Raises ModelFileError
    when nothing is called so, or when it is a model of the manifest and nobody `is_sure`.
    """
    with files.in_words(folder):
        if not folder.is_dir():
            raise _unknown(folder, name)
        with files.exclusive(folder, progress):
            # What was added goes first: it may have taken a name that the manifest has since.
            if own := added.find(added.load_added(folder), name):
                deleted = _delete(folder, own)
                added.forget(folder, own.name)
                return deleted
            if model := added.find(manifest.models, name):
                if not is_sure:
                    raise ModelFileError(
                        f"{model.name} is a model of the manifest {manifest.path}; "
                        "say --yes to delete its files"
                    )
                return _delete(folder, model)
            if is_gguf_name(name) and os.path.lexists(folder / name):
                (folder / name).unlink()
                return (folder / name,)
    raise _unknown(folder, name)


def _delete(folder: Path, model: Model) -> tuple[Path, ...]:
    deleted = []
    for variant in model.variants:
        with contextlib.suppress(FileNotFoundError):
            (folder / variant.file).unlink()  # of a symbolic link the link, not what it points to
            deleted.append(folder / variant.file)
    return tuple(deleted)


def _unknown(folder: Path, name: str) -> ModelFileError:
    return ModelFileError(f"{folder}: no model and no model file is called {name!r}; see: tampu models list")
