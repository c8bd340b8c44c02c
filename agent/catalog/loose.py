"""Model files that nobody has announced: put into the models folder by hand, and told by their headers."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.entries import Role, is_gguf_name
from agent.catalog.facts import Facts, facts_of, printable
from agent.catalog.gguf import COPY_AGAIN
from agent.catalog.manifest import Manifest
from agent.catalog.shelf import Shelf
from agent.errors import ModelFileError


class LooseFile(Struct, frozen=True, kw_only=True):
    """One file. `file` is its name in the folder: what `models.name` says to use it; `name` is for people.

    Where `refusal` is not empty it is the sentence why the file cannot be used, and only `file`,
    `name` and `file_bytes` are known.
    """

    file: str
    name: str
    file_bytes: int
    architecture: str = ""
    quant: str = ""
    n_params: int = 0
    n_ctx_train: int = 0
    layers: int = 0
    has_chat_template: bool = False
    role: Role = "chat"
    licence: str = ""
    refusal: str = ""


def loose_files(folder: Path, manifest: Manifest, shelf: Shelf | None = None) -> tuple[LooseFile, ...]:
    """Every *.gguf in `folder` that no model of the manifest names, by file name; none without a folder.

    `shelf` spares reading a header that was read before.
    """
    known = {variant.file for model in manifest.models for variant in model.variants}
    shelf = shelf or Shelf()
    paths = sorted(path for path in _gguf_files(folder) if path.name not in known)
    return tuple(_look(path, shelf) for path in paths)


def _gguf_files(folder: Path) -> list[Path]:
    try:
        # A leading dot: a file that is only being written.
        return [path for path in folder.iterdir() if path.suffix == ".gguf" and path.name[0] != "."]
    except OSError:
        return []


def _look(path: Path, shelf: Shelf) -> LooseFile:
    try:
        facts = _facts(path, shelf)
    except ModelFileError as error:
        file = path.name if is_gguf_name(path.name) else printable(path.name)
        return LooseFile(file=file, name=printable(path.stem), file_bytes=_size(path), refusal=str(error))
    return LooseFile(
        file=path.name,
        name=facts.title or path.stem,
        file_bytes=_size(path),
        architecture=facts.architecture,
        quant=facts.quant,
        n_params=facts.n_params,
        n_ctx_train=facts.n_ctx_train,
        layers=facts.layers,
        has_chat_template=facts.has_chat_template,
        role=facts.role,
        licence=facts.licence,
    )


def _facts(path: Path, shelf: Shelf) -> Facts:
    if not is_gguf_name(path.name):
        shown = path.with_name(printable(path.name))
        raise ModelFileError(f"{shown}: only A-Z a-z 0-9 . _ - may be in its name; rename the file")
    return facts_of(path, shelf.header(path, COPY_AGAIN))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile, or a link to nowhere
        return 0
