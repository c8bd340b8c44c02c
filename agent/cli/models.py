"""`tampu models list | verify | fetch`: the model files of this box."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
from msgspec import Struct

# Configuration and catalogue are imported where a verb runs: `tampu ask` must not wait for their libraries.
if TYPE_CHECKING:
    from agent.catalog.manifest import Manifest, Model
    from agent.catalog.store import FileState, Store

BAR_CELLS = 30


class Row(Struct, frozen=True):
    """One line of `list`, and its JSON."""

    name: str
    quant: str
    file_bytes: int
    state: "FileState"
    licence: str
    default: bool
    path: str


class Verified(Struct, frozen=True):
    """What `verify --json` prints: the file is whole."""

    name: str
    quant: str
    path: str
    sha256: str
    gguf_version: int
    num_tensors: int


class Fetched(Struct, frozen=True):
    """What `fetch --json` prints: the file is there and whole."""

    name: str
    quant: str
    path: str
    file_bytes: int


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `models` and its verbs; each sets `func`, which takes the arguments and returns the exit code."""
    models = subparsers.add_parser("models", help="the model files: list, verify, fetch")
    verbs = models.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_verb(verbs, "list", "the models there are, and their files").set_defaults(func=list_models)
    for name, text, func in (
        ("verify", "check every byte of a model file", verify),
        ("fetch", "get a model file, or do nothing when it is here and whole", fetch),
    ):
        parser = _add_verb(verbs, name, text)
        parser.add_argument("name", metavar="NAME", nargs="?", help="a model's name (default: models.name)")
        parser.set_defaults(func=func)


def _add_verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--folder", metavar="DIR", help="the models folder (default: models.folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def list_models(args: argparse.Namespace) -> int:
    """Print every model of the manifest with the state of its files."""
    manifest, store, _ = _open(args)
    rows = [_row(model, index, store) for model in manifest.models for index in range(len(model.variants))]
    print(_json(rows) if args.json else _table(rows))
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check size, hash and header of a model's file. Raises ModelFileError when it is not whole."""
    manifest, store, name = _open(args)
    model = manifest.model(name)
    with Meter(sys.stderr) as meter:
        header = store.verify(model.preferred, meter)
    path = store.locate(model.preferred)
    if args.json:
        quant, sha256 = model.preferred.quant, model.preferred.sha256
        print(_json(Verified(model.name, quant, str(path), sha256, header.version, header.num_tensors)))
    else:
        print(f"{path} is whole ({_megabytes(model.preferred.file_bytes)}, {header.num_tensors} tensors)")
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Make a model's file be there and whole. Raises ModelFileError when it cannot be."""
    from agent import places

    manifest, store, name = _open(args)
    model = manifest.model(name)
    with Meter(sys.stderr) as meter:
        path = store.fetch(model.preferred, places.cache_folder(), meter)
    if args.json:
        print(_json(Fetched(model.name, model.preferred.quant, str(path), model.preferred.file_bytes)))
    else:
        print(f"{model.name} {model.preferred.quant} is in {path} ({_megabytes(model.preferred.file_bytes)})")
    return 0


class Meter:
    """Draws progress: one line that is redrawn on a terminal, else a line per quarter."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._label = ""
        self._shown = -1

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal and self._label:
            print(file=self._out)

    def __call__(self, done_bytes: int, total_bytes: int, label: str) -> None:
        percent = 100 * done_bytes // max(total_bytes, 1)
        shown = percent if self._is_terminal else percent // 25 * 25
        if (label, shown) == (self._label, self._shown):
            return
        if self._is_terminal:
            self._redraw(percent, total_bytes, label)
        else:
            print(f"{label}: {shown} % of {_megabytes(total_bytes)}", file=self._out, flush=True)
        self._label, self._shown = label, shown

    def _redraw(self, percent: int, total_bytes: int, label: str) -> None:
        start = "\n" if self._label and label != self._label else "\r"
        bar = ("#" * (percent * BAR_CELLS // 100)).ljust(BAR_CELLS, ".")
        line = f"{label:<12} [{bar}] {percent:3} % of {_megabytes(total_bytes)}"
        print(start + line, end="", file=self._out, flush=True)


def _open(args: argparse.Namespace) -> "tuple[Manifest, Store, str]":
    """The manifest, the store, and the name that is asked for."""
    from agent import config_file
    from agent.catalog.manifest import load_manifest
    from agent.catalog.store import Store

    settings = config_file.load(args.config, args.set).models
    manifest = load_manifest(Path(settings.manifest) if settings.manifest else None)
    return manifest, Store(Path(args.folder or settings.folder)), getattr(args, "name", None) or settings.name


def _row(model: "Model", index: int, store: "Store") -> Row:
    variant = model.variants[index]
    return Row(
        name=model.name,
        quant=variant.quant,
        file_bytes=variant.file_bytes,
        state=store.status(variant),
        licence=model.licence,
        default=model.default and index == 0,
        path=str(store.locate(variant)),
    )


def _table(rows: list[Row]) -> str:
    lines = [("", "NAME", "QUANT", "SIZE", "STATE", "LICENCE")]
    for row in rows:
        mark, size = "*" if row.default else "", _megabytes(row.file_bytes)
        lines.append((mark, row.name, row.quant, size, str(row.state), row.licence))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [map(str.ljust, line, widths) for line in lines]
    return "\n".join([*(" ".join(cells).rstrip() for cells in padded), "* is the default: what `auto` means"])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
