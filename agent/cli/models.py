"""`tampu models list | pick | verify | fetch | add | remove | schema`: the model files of this box."""

import argparse
import sys
from typing import Any

import msgspec
from msgspec import Struct

from agent.cli import models_add, models_list, models_pick
from agent.cli.meter import Meter, megabytes
from agent.cli.models_folder import open_catalog


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
    models = subparsers.add_parser("models", help="the model files: list, pick, verify, fetch, add, remove")
    verbs = models.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_verb(verbs, "list", "the models there are, and their files").set_defaults(func=models_list.show)
    picked = _add_verb(verbs, "pick", "which one this box would load, how, and why not the others")
    picked.epilog, picked.formatter_class = models_pick.EPILOG, argparse.RawDescriptionHelpFormatter
    picked.set_defaults(func=models_pick.pick)
    for name, text, func in (
        ("verify", "check every byte of a model file", verify),
        ("fetch", "get a model file, or do nothing when it is here and whole", fetch),
    ):
        parser = _add_verb(verbs, name, text)
        parser.add_argument("name", metavar="NAME", nargs="?", help="a model's name (default: models.name)")
        parser.set_defaults(func=func)
    add = _add_verb(verbs, "add", "make a GGUF file a model of this box: copy it into the models folder")
    add.add_argument("file", metavar="FILE", help="the GGUF file")
    add.add_argument(
        "--name", metavar="NAME", help="what to call the model (default: made from the file name)"
    )
    add.add_argument("--force", action="store_true", help="replace another file of the same name")
    add.set_defaults(func=models_add.add)
    remove = _add_verb(verbs, "remove", "delete a model's files from the models folder")
    remove.add_argument("name", metavar="NAME", help="a model's name, or a file's in the models folder")
    remove.add_argument("--yes", action="store_true", help="also when it is a model of the manifest")
    remove.set_defaults(func=models_add.remove)
    _add_verb(verbs, "schema", "the JSON schema of a manifest").set_defaults(func=schema)


def _add_verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--folder", metavar="DIR", help="the models folder (default: models.folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def verify(args: argparse.Namespace) -> int:
    """Check size, hash and header of a model's file. Raises ModelFileError when it is not whole."""
    manifest, store, name = open_catalog(args)
    model = manifest.model(name)
    with Meter(sys.stderr) as meter:
        header = store.verify(model.preferred, meter)
    path = store.locate(model.preferred)
    if args.json:
        quant, sha256 = model.preferred.quant, model.preferred.sha256
        print(_json(Verified(model.name, quant, str(path), sha256, header.version, header.num_tensors)))
    else:
        print(f"{path} is whole ({megabytes(model.preferred.file_bytes)}, {header.num_tensors} tensors)")
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Make a model's file be there and whole. Raises ModelFileError when it cannot be."""
    from agent import places

    manifest, store, name = open_catalog(args)
    model = manifest.model(name)
    with Meter(sys.stderr) as meter:
        path = store.fetch(model.preferred, places.cache_folder(), meter)
    if args.json:
        print(_json(Fetched(model.name, model.preferred.quant, str(path), model.preferred.file_bytes)))
    else:
        print(f"{model.name} {model.preferred.quant} is in {path} ({megabytes(model.preferred.file_bytes)})")
    return 0


def schema(_: argparse.Namespace) -> int:
    """Print the JSON schema of a manifest, for editors and checks."""
    from agent.catalog import manifest

    print(manifest.schema().decode(), end="")
    return 0


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
