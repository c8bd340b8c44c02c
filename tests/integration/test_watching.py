"""A box that says how it is: its log on the socket, its last crash, and a report of its daemon."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.cli.socket_client import SocketClient
from agent.errors import BadRequest
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

ENGINE = (sys.executable, str(Path(__file__).parents[1] / "support" / "fake_engine.py"), "0")
SYSTEM_PROMPT = "You look after the roses of the neighbour"
PROMPT = "where did I bury the treasure"


def lines(daemon: Daemon, query: str = "") -> list[str]:
    answer: dict[str, Any] = json.loads(SocketClient(str(daemon.socket)).get_json(f"/log{query}"))
    return list(answer["lines"])


def test_the_log_is_had_over_the_socket(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """Its last lines, and no prompt even where prompts are logged."""
    daemon = start_daemon(log={"level": "info", "prompts": True})
    with Device(broker.port, f"{BASE}/response/me/#") as device:
        device.publish(f"{BASE}/request/me", {"id": "a", "prompt": PROMPT})
        device.wait_end("a")
    wait_until(lambda: PROMPT in daemon.log.read_text(), "the prompt is in the log on stderr")
    found = lines(daemon)
    assert any("me/a" in line for line in found)
    assert not any(PROMPT in line for line in found)
    assert lines(daemon, "?lines=2") == lines(daemon)[-2:]


@pytest.mark.parametrize("query", ["?lines=0", "?lines=501", "?lines=x", "?lines=-1", "?lines=" + "9" * 50])
def test_a_number_of_lines_is_checked(daemon: Daemon, query: str) -> None:
    """As every other field."""
    with pytest.raises(BadRequest, match="expected 1 to 500"):
        lines(daemon, query)


def test_the_last_crash_is_told_with_its_reason(daemon: Daemon, broker: Mosquitto) -> None:
    """As an object, in the status and in the retained info."""
    daemon.kill_engine()
    crash = wait_until(lambda: daemon.status().get("last_crash"), "the crash is noticed")
    assert (crash["phase"], crash["count"]) == ("ready", 1)
    assert crash["how"].startswith("SIGKILL")
    daemon.wait_online()
    with Device(broker.port, f"{BASE}/info") as device:
        payload = wait_until(lambda: device.messages, "info")[-1].payload
    assert json.loads(payload)["last_crash"] == crash


def test_a_report_of_a_running_daemon(
    start_daemon: Callable[..., Daemon],
    broker: Mosquitto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """State, log, models, findings and the last crash are in it; prompts and system prompts are not."""
    monkeypatch.setattr("agent.engine_process.COMMAND", ENGINE)
    daemon = start_daemon(profiles={"roses": {"system": SYSTEM_PROMPT}}, log={"prompts": True})
    with Device(broker.port, f"{BASE}/response/me/#") as device:
        device.publish(f"{BASE}/request/me", {"id": "a", "prompt": PROMPT, "profile": "roses"})
        device.wait_end("a")
    daemon.kill_engine()
    wait_until(lambda: daemon.status().get("last_crash"), "the crash is noticed")
    daemon.wait_online()
    out = tmp_path / "report.json"
    config = str(daemon.socket.parent / "tampu.yaml")
    assert main(["report", "--config", config, "--output", str(out)]) == 0
    text = out.read_text()
    tree = json.loads(text)
    assert tree["troubles"] == []
    assert tree["status"]["state"] == "online"
    assert tree["last_crash"]["how"].startswith("SIGKILL")
    assert [model["name"] for model in tree["models"]] == ["fake.gguf"]
    assert any("me/a" in line for line in tree["log"])
    assert tree["doctor"]["daemon"]["status"]["node"] == "box"
    assert PROMPT not in text
    assert SYSTEM_PROMPT not in text
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "the state of the daemon: online" in capsys.readouterr().out
