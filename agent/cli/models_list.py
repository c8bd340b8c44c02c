"""`tampu models list`: what the manifest has, what was added, and what else lies in the folder."""

import argparse
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from agent.cli.meter import megabytes
from agent.cli.models_folder import open_catalog

if TYPE_CHECKING:
    from agent.catalog.loose import LooseFile
    from agent.catalog.manifest import Manifest, Model
    from agent.catalog.store import Store

Kind = Literal["manifest", "added", "loose"]
KINDS = {"manifest": "manifest", "added": "added", "loose": "by hand"}


class Row(Struct, frozen=True, kw_only=True):
    """One line of `list`, and its JSON. `name` is what `models.name` says to use it; `refusal` why it
    cannot be used, where `state` is "refused"."""

    name: str
    quant: str
    file_bytes: int
    state: Literal["missing", "wrong size", "present", "refused"]
    licence: str
    default: bool
    path: str
    kind: Kind
    roles: tuple[str, ...]
    title: str = ""
    refusal: str = ""


def show(args: argparse.Namespace) -> int:
    """Print every model with the state of its files, and every other model file in the folder."""
    from agent.catalog.loose import loose_files

    manifest, store, _ = open_catalog(args)
    rows = [row for model in manifest.models for row in _rows(manifest, model, store)]
    rows += [_loose(file, store) for file in loose_files(store.folder, manifest)]
    print(msgspec.json.encode(rows).decode() if args.json else _table(rows))
    return 0


def _rows(manifest: "Manifest", model: "Model", store: "Store") -> list[Row]:
    return [
        Row(
            name=model.name,
            quant=variant.quant,
            file_bytes=variant.file_bytes,
            state=store.status(variant).value,
            licence=model.licence,
            default=model.default and variant is model.preferred,
            path=str(store.locate(variant)),
            kind="added" if model.name in manifest.added else "manifest",
            roles=model.roles,
        )
        for variant in model.variants
    ]


def _loose(file: "LooseFile", store: "Store") -> Row:
    return Row(
        name=file.file,
        quant=file.quant,
        file_bytes=file.file_bytes,
        state="refused" if file.refusal else "present",
        licence=file.licence,
        default=False,
        path=str(store.folder / file.file),
        kind="loose",
        roles=() if file.refusal else (file.role,),
        title=file.name,
        refusal=file.refusal,
    )


def _table(rows: list[Row]) -> str:
    lines = [("", "NAME", "QUANT", "SIZE", "STATE", "FOR", "FROM", "LICENCE")]
    for row in rows:
        mark, size, purpose = "*" if row.default else "", megabytes(row.file_bytes), " ".join(row.roles)
        licence = row.licence or "-"
        lines.append(
            (mark, row.name, row.quant or "-", size, row.state, purpose or "-", KINDS[row.kind], licence)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [map(str.ljust, line, widths) for line in lines]
    notes = ["* is the default: what `auto` takes first, see `tampu models pick`"]
    notes += [f"refused: {row.refusal}" for row in rows if row.refusal]
    return "\n".join([*(" ".join(cells).rstrip() for cells in padded), *notes])
