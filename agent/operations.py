"""What the daemon does for an operator: looks at itself, and changes the model that runs."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agent import logs
from agent.catalog.placement import Placement
from agent.catalog.shelf import Shelf
from agent.config import Config
from agent.engine.messages import Hello
from agent.errors import Busy, Internal, ModelFileError, ModelUnavailable, ProbeError
from agent.findings import Finding
from agent.hardware.memory import ROOT
from agent.model_finder import ModelFinder
from agent.model_list import ModelHere, models_here
from agent.status import ModelIdentity, StatusSource

log = logging.getLogger(__name__)

# So long an operator waits for a look at files and folders; some disks hang.
LOOKS_WITHIN_S = 10.0
RETRY_MS = 5000
CHANGE = "change of model"
T = TypeVar("T")


class Operations:
    """One of each kind at a time. `hello` is the engine's word on what it can compute on, `reload` ends the
    engine process gracefully and has another load what is chosen then."""

    def __init__(
        self,
        config: Config,
        finder: ModelFinder,
        status: StatusSource,
        hello: Callable[[], Hello | None],
        reload: Callable[[], None],
        root: Path = ROOT,
        within_s: float = LOOKS_WITHIN_S,
    ) -> None:
        self._config = config
        self._finder = finder
        self._status = status
        self._hello = hello
        self._reload = reload
        self._root = root
        self._shelf = Shelf()
        self._within_s = within_s
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    async def models(self) -> tuple[ModelHere, ...]:
        """The model files that are here. Raises Busy, or ModelUnavailable for a broken catalogue."""
        chosen = self._status.model
        try:
            return await self._alone("list", models_here, self._config.models, chosen, self._shelf)
        except ModelFileError as error:
            raise ModelUnavailable(str(error)) from error

    async def examine(self) -> tuple[Finding, ...]:
        """What is to be mended, the worst first. Raises Busy while somebody else asks, or a disk hangs."""
        from agent.doctor.inside import examine_inside  # asked for seldom: memory is for answers

        status, hello = self._status.read(), self._hello()
        try:
            return await self._alone("examination", examine_inside, self._config, status, hello, self._root)
        except ProbeError as error:
            raise Internal(str(error)) from error

    def log(self, num_lines: int) -> tuple[str, ...]:
        """The last lines; prompts are among them where the configuration has them written."""
        return logs.tail(num_lines)

    async def select(self, name: str, variant: str) -> ModelIdentity:
        """Run that model until the daemon ends; what is under way goes on with it.

        Raises ModelUnavailable or InsufficientMemory, and then all stays as it was; Busy.
        """
        models, chosen = await self._alone(CHANGE, self._finder.consider, name, variant, self._hello())
        self._finder.adopt(models)
        return self._load(chosen)

    async def reload(self) -> ModelIdentity:
        """Choose again and load. Raises as `select` does."""
        return self._load(await self._alone(CHANGE, self._finder.find, self._hello()))

    def _load(self, chosen: Placement) -> ModelIdentity:
        log.info("an operator has %s %s loaded", chosen.name, chosen.quant)
        self._reload()
        return ModelIdentity(chosen.name, chosen.quant, chosen.sha256, chosen.runs, chosen.why)

    async def _alone(self, what: str, work: Callable[..., T], *args: object) -> T:
        """Do it on a thread, unless the last one is not done yet. What comes late is thrown away."""
        before = self._under_way.get(what)
        if before is not None and not before.done():
            raise Busy(f"the last {what} is still under way; ask again", retry_after_ms=RETRY_MS)
        task = asyncio.create_task(asyncio.to_thread(work, *args), name=what)
        self._under_way[what] = task
        # Nobody may be left to hear of it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if not (await asyncio.wait([task], timeout=self._within_s))[0]:
            sentence = f"the {what} has not come within {self._within_s:g} s; a disk may hang"
            raise Busy(f"{sentence}: ask again", retry_after_ms=RETRY_MS)
        return task.result()
