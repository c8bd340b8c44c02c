"""Which models folder and which manifest a verb of `tampu models` is about."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

# Configuration and catalogue are imported where a verb runs: `tampu ask` must not wait for their libraries.
if TYPE_CHECKING:
    from agent.catalog.manifest import Manifest
    from agent.catalog.store import Store


def open_catalog(args: argparse.Namespace) -> "tuple[Manifest, Store, str]":
    """What the manifest and added.yaml have, the store, and the name that is asked for."""
    from agent import config_file
    from agent.catalog.added import load_catalog
    from agent.catalog.store import Store

    settings = config_file.load(args.config, args.set).models
    store = Store(Path(args.folder or settings.folder))
    manifest = load_catalog(Path(settings.manifest) if settings.manifest else None, store.folder)
    return manifest, store, getattr(args, "name", None) or settings.name


def open_manifest(args: argparse.Namespace) -> "tuple[Manifest, Path]":
    """The manifest without what was added, and the folder."""
    from agent import config_file
    from agent.catalog.manifest import load_manifest

    settings = config_file.load(args.config, args.set).models
    manifest = load_manifest(Path(settings.manifest) if settings.manifest else None)
    return manifest, Path(args.folder or settings.folder)
