"""`tampu models add | remove`: a file becomes a model of this box, or stops being one."""

import argparse
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.cli.meter import Meter, megabytes
from agent.cli.models_folder import open_manifest


class Added(Struct, frozen=True):
    """What `add --json` prints: the file is there, whole, and known by its name."""

    name: str
    quant: str
    path: str
    file_bytes: int
    sha256: str
    roles: tuple[str, ...]


class Removed(Struct, frozen=True):
    """What `remove --json` prints: the files that were deleted."""

    name: str
    paths: tuple[str, ...]


def add(args: argparse.Namespace) -> int:
    """Copy a file into the models folder and record it. Raises ModelFileError or ManifestError."""
    from agent.catalog.adding import add_model

    manifest, folder = open_manifest(args)
    with Meter(sys.stderr) as meter:
        model, path = add_model(folder, manifest, Path(args.file), args.name, args.force, meter)
    variant = next(each for each in model.variants if each.file == path.name)
    done = Added(model.name, variant.quant, str(path), variant.file_bytes, variant.sha256, model.roles)
    if args.json:
        print(msgspec.json.encode(done).decode())
    else:
        print(f"{done.name} {done.quant} is in {path} ({megabytes(done.file_bytes)})")
        print(f"use it with: models.name: {done.name}")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Delete a model's files and its record. Raises ModelFileError when there is nothing of that name."""
    from agent.catalog.removing import remove_model

    manifest, folder = open_manifest(args)
    with Meter(sys.stderr) as meter:
        paths = remove_model(folder, manifest, args.name, args.yes, meter)
    if args.json:
        print(msgspec.json.encode(Removed(args.name, tuple(map(str, paths)))).decode())
    else:
        print("\n".join(f"{path} is deleted" for path in paths) or f"{args.name}: no file was here")
    return 0
