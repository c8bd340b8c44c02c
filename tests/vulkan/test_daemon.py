"""The whole daemon on a real Vulkan device: placement asks for it, and the answer comes from there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.engine.messages import Device
from tests.support.processes import Daemon, wait_until

pytestmark = pytest.mark.timeout(300)
# lavapipe compiles its kernels for most of a minute, and again for a context of another size.
STARTS_WITHIN_S = 200.0
SCHEMA = {
    "type": "object",
    "required": ["capital"],
    "properties": {"capital": {"enum": ["Paris", "Rome", "Oslo"]}},
}


def test_layers_that_are_asked_for_are_computed_there(
    model_path: Path, gpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`engine.gpu: 4`: the status says so, and a prompt is answered."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    tree = {
        "models": {"folder": str(model_path.parent), "name": model_path.name},
        "engine": {"gpu": 4},
        "mqtt": {"port": 9},
    }
    daemon = Daemon(tmp_path, [sys.executable, "-m", "agent", "run", "--config"], tree)
    daemon.start()
    try:
        wait_until(lambda: is_ready(daemon), "the model is ready", STARTS_WITHIN_S)
        assert daemon.status()["model"]["runs"].startswith(f"4 layers on {gpu.name}")
        assert capital_of_france(daemon.socket) == "Paris"
    finally:
        daemon.kill()


def is_ready(daemon: Daemon) -> bool:
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.log.read_text()
    state = daemon.status().get("engine", {}).get("state")
    assert state != "failed", daemon.log.read_text()
    return bool(state == "ready")


def capital_of_france(socket: Path) -> str:
    """One word of JSON: the schema leaves a small model little to say besides."""
    schema = socket.with_name("schema.json")
    schema.write_text(json.dumps(SCHEMA))
    options = ["--socket", str(socket), "--schema", str(schema), "--max-tokens", "16"]
    command = [sys.executable, "-m", "agent", "ask", *options, "What is the capital of France?"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    found: str = json.loads(done.stdout)["capital"]
    return found
