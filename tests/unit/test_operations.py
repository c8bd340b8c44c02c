"""What a daemon does for an operator: looks beside its work, one at a time, and changes models safely."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import config_file, logs
from agent.engine.messages import PROTOCOL, Hello
from agent.errors import BadRequest, Busy, ModelUnavailable, NotFound
from agent.model_finder import ModelFinder
from agent.model_list import models_here
from agent.operations import Operations
from agent.status import ModelIdentity, StatusSource
from tests.support.gguf_builder import MODEL_KEYS, build
from tests.support.scripted_engine import ScriptedEngine

HELLO = Hello(protocol=PROTOCOL, pid=1, build="fake", devices=(), system="", sandbox="Landlock 4")


class Room:
    """Operations over a folder with two files, and how often they had the engine reloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        for name in ("one.gguf", "two.gguf"):
            (self.folder / name).write_bytes(build(MODEL_KEYS))
        tree = {"node": "box", "models": {"folder": str(self.folder), "name": "one.gguf"}}
        self.config = config_file.from_tree(tree, "the test")
        self.finder = ModelFinder(self.config, lambda: None, lambda: 0)
        self.status = StatusSource("box", ScriptedEngine(), ModelIdentity("one", "F32", ""))
        self.num_reloads = 0
        self.operations = self.make()

    def make(self, **options: Any) -> Operations:
        return Operations(self.config, self.finder, self.status, lambda: HELLO, self._reload, **options)

    def _reload(self) -> None:
        self.num_reloads += 1


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_the_models_that_are_here(room: Room) -> None:
    """Files of the manifest that are not here are left out; the one that runs is marked."""
    found = asyncio.run(room.operations.models())
    assert [(each.name, each.is_chosen) for each in found] == [("one.gguf", True), ("two.gguf", False)]
    assert all(each.file_bytes and not each.refusal for each in found)


def test_a_file_that_is_no_model_says_why(room: Room) -> None:
    """It stands in the list."""
    (room.folder / "junk.gguf").write_bytes(b"junk")
    (junk,) = [each for each in models_here(room.config.models, None) if each.name == "junk.gguf"]
    assert junk.refusal
    assert junk.roles == ()


def test_selecting_is_choosing_among_others_from_now_on(room: Room) -> None:
    """And the engine is told to load what is chosen then."""
    chosen = asyncio.run(room.operations.select("two.gguf", "auto"))
    assert (chosen.name, room.num_reloads) == ("two", 1)
    assert room.finder.find(None).name == "two"
    asyncio.run(room.operations.select("one.gguf", "auto"))
    assert room.finder.find(None).name == "one"


@pytest.mark.parametrize(
    ("name", "variant", "error"),
    [
        ("../../etc/passwd.gguf", "auto", NotFound),
        ("/etc/x.gguf", "auto", NotFound),
        ("three.gguf", "auto", NotFound),
        (".gguf", "auto", NotFound),
        ("\0.gguf", "auto", NotFound),
        ("nobody-knows", "auto", NotFound),
        ("one.gguf", "no quant", BadRequest),
        ("smollm2-135m-instruct", "auto", ModelUnavailable),
    ],
)
def test_a_selection_that_cannot_be_kept_changes_nothing(
    room: Room, name: str, variant: str, error: type[Exception]
) -> None:
    """No path leads out of the folder, and the model that runs goes on."""
    with pytest.raises(error):
        asyncio.run(room.operations.select(name, variant))
    assert room.num_reloads == 0
    assert room.finder.find(None).name == "one"


def test_reload_without_a_model_keeps_the_one_that_runs(room: Room) -> None:
    """A folder that is empty now is no reason to fall silent."""
    assert asyncio.run(room.operations.reload()).name == "one"
    assert room.num_reloads == 1
    (room.folder / "one.gguf").unlink()
    with pytest.raises(ModelUnavailable):
        asyncio.run(room.operations.reload())
    assert room.num_reloads == 1


def test_the_daemon_examines_its_box(room: Room) -> None:
    """Without an engine child and without another connection to the broker."""
    (room.folder / "one.gguf").unlink()
    (room.folder / "two.gguf").unlink()
    found = asyncio.run(room.operations.examine())
    assert "models_folder_empty" in [finding.code for finding in found]


def test_one_look_at_a_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one is told to come again; one that hangs is not waited for."""
    gate = threading.Event()

    def hang(*_args: object) -> tuple[()]:
        gate.wait(20)
        return ()

    monkeypatch.setattr("agent.operations.models_here", hang)
    operations = room.make(within_s=0.05)

    async def scenario() -> None:
        with pytest.raises(Busy, match="a disk may hang"):
            await operations.models()
        with pytest.raises(Busy, match="still under way") as caught:
            await operations.models()
        assert caught.value.retry_after_ms
        gate.set()
        while True:
            try:
                assert await operations.models() == ()
                break
            except Busy:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_choice_that_comes_too_late_is_not_taken(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator was told that nothing came of it."""
    gate = threading.Event()
    consider: Callable[..., Any] = room.finder.consider

    def late(*args: Any) -> Any:
        gate.wait(20)
        return consider(*args)

    monkeypatch.setattr(room.finder, "consider", late)
    operations = room.make(within_s=0.05)

    async def scenario() -> None:
        with pytest.raises(Busy):
            await operations.select("two.gguf", "auto")
        gate.set()

    asyncio.run(scenario())
    assert (room.finder.find(None).name, room.num_reloads) == ("one", 0)


def test_the_log_is_the_daemons_own(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last lines."""
    monkeypatch.setattr(logs, "tail", lambda n: tuple(f"line {i}" for i in range(n)))
    assert room.operations.log(2) == ("line 0", "line 1")
