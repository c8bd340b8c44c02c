"""Finds the model for this box: reads what placement needs to know, and lets it choose."""

import logging
import os
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import msgspec

from agent.catalog.added import load_catalog
from agent.catalog.entries import is_gguf_name
from agent.catalog.manifest import AUTO
from agent.catalog.placement import Placement, Resources, place
from agent.catalog.shelf import Shelf
from agent.catalog.store import Store
from agent.config import Config, Models
from agent.engine.messages import Hello
from agent.errors import (
    BadRequest,
    InsufficientMemory,
    ManifestError,
    ModelFileError,
    ModelUnavailable,
    NotFound,
    ProbeError,
)
from agent.hardware.machine import Machine
from agent.hardware.memory import ROOT
from agent.hardware.probe import probe
from agent.resources import read_resources

log = logging.getLogger(__name__)


def choose(
    config: Config, resources: Resources, shelf: Shelf | None = None, *, is_brief: bool = False
) -> Placement:
    """What would be loaded with these resources; `shelf` and `is_brief` as in placement.place.

    Raises ModelUnavailable or InsufficientMemory with the next step.
    """
    models = config.models
    store = Store(Path(models.folder))
    try:
        manifest = load_catalog(Path(models.manifest) if models.manifest else None, store.folder)
        return place(config, manifest, store, resources, shelf, is_brief=is_brief)
    except (ManifestError, ModelFileError, OSError) as error:
        raise ModelUnavailable(str(error)) from error


class ModelFinder:
    """Asked again for every engine process: the folder, the memory and the configuration's world change.

    `engine_pid` gives the engine process's id, or None; `level` how far the budget is lowered.
    """

    def __init__(
        self,
        config: Config,
        engine_pid: Callable[[], int | None],
        level: Callable[[], int],
        root: Path = ROOT,
    ) -> None:
        self._config = config
        self._engine_pid = engine_pid
        self._level = level
        self._root = root
        self._shelf = Shelf()
        # A child may die while somebody still looks ahead for it.
        self._lock = threading.Lock()

    def look_ahead(self) -> None:
        """Read what takes time (headers, the manifest, the CPU), so that `find` is quick. Raises nothing."""
        try:
            self.find(None)
        except (ModelUnavailable, InsufficientMemory) as error:
            log.debug("nothing to load yet: %s", error)

    def find(self, hello: Hello | None) -> Placement:
        """What to load, given what the engine can compute on (None: not known yet).

        Raises ModelUnavailable or InsufficientMemory with the next step.
        """
        return self._find(self._config, hello)

    def _find(self, config: Config, hello: Hello | None) -> Placement:
        try:
            resources = read_resources(
                self._root,
                self._pids(),
                self._level(),
                machine=self._machine,
                hello=hello,
                config=config,
            )
        except OSError as error:
            raise ModelUnavailable(f"this box does not tell how much memory it has: {error}") from error
        with self._lock:
            return choose(config, resources, self._shelf, is_brief=True)

    def consider(self, name: str, variant: str, hello: Hello | None) -> tuple[Models, Placement]:
        """What `adopt` would change, and what would be loaded then; nothing is changed yet.

        Raises NotFound, BadRequest, ModelUnavailable or InsufficientMemory.
        """
        models = self._named(name, variant)
        return models, self._find(msgspec.structs.replace(self._config, models=models), hello)

    def adopt(self, models: Models) -> None:
        """Choose among these from now on, until the daemon ends."""
        self._config = msgspec.structs.replace(self._config, models=models)

    def _named(self, name: str, variant: str) -> Models:
        """The settings with another name. It came from outside: no path, and nothing that is not here."""
        models = self._config.models
        try:
            wanted = msgspec.convert(
                {**msgspec.structs.asdict(models), "name": name, "variant": variant}, Models
            )
        except msgspec.ValidationError as error:
            raise BadRequest(f"name, variant: {error}") from error
        if name == AUTO:
            return wanted
        if name.endswith(".gguf"):
            if not (is_gguf_name(name) and (Path(models.folder) / name).is_file()):
                raise NotFound(f"there is no file {name!r} in the models folder; models has the names")
            return wanted
        try:
            load_catalog(Path(models.manifest) if models.manifest else None, Path(models.folder)).model(name)
        except ManifestError as error:
            raise NotFound(str(error)) from error
        return wanted

    @cached_property
    def _machine(self) -> Machine | None:
        """The box, looked at once: its CPU does not change. None where it cannot be told."""
        try:
            return probe(self._root)
        except ProbeError as error:
            log.warning("this box is not known: %s", error)
            return None

    def _pids(self) -> list[int]:
        """What both processes hold already is ours as well."""
        return [pid for pid in (os.getpid(), self._engine_pid()) if pid]
