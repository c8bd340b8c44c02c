"""A real broker and a real daemon over the fake engine, for each test its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_builder import build
from tests.support.processes import Daemon, Mosquitto, fake_daemon

NODE = "box"
BASE = f"tampu/v1/{NODE}"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto that keeps its state over `stop` and `start`."""
    folder = tmp_path / "broker"
    folder.mkdir()
    mosquitto = Mosquitto(folder)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A models folder with a file that passes for a model until llama.cpp would see it."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "fake.gguf").write_bytes(build())
    return folder


@pytest.fixture
def start_daemon(tmp_path: Path, broker: Mosquitto, model_folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons; `step_s` is the time of one token, `root` where memory is read about, and the rest
    are sections of the configuration."""
    started: list[Daemon] = []

    def start(
        *,
        step_s: float = 0.0,
        online: bool = True,
        name: str = "daemon",
        root: Path = Path("/"),
        **sections: Any,
    ) -> Daemon:
        folder = tmp_path / name
        folder.mkdir()
        tree = {
            "node": NODE,
            "mqtt": {"port": broker.port},
            "models": {"folder": str(model_folder), "name": "fake.gguf"},
            "engine": {"n_ctx": 1024, "threads": 1},
            "journal": {"folder": str(folder)},
            **sections,
        }
        daemon = fake_daemon(folder, tree, step_s, root)
        started.append(daemon)
        daemon.start()
        if online:
            daemon.wait_online()
        return daemon

    yield start
    for daemon in started:
        daemon.kill()


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """One daemon, online, as fast as the fake engine goes."""
    return start_daemon()
