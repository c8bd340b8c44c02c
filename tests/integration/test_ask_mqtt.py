"""`tampu ask --mqtt` as typed: over a real broker, with the exit codes of the README."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import BASE, NODE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, free_port

ROOT = Path(__file__).parents[2]


def ask(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The command's words after `ask --mqtt`."""
    command = [sys.executable, "-m", "agent.cli.main", "ask", "--mqtt", f"127.0.0.1:{port}", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=40, stdin=subprocess.DEVNULL, cwd=ROOT, check=False
    )


def test_the_only_box_answers(daemon: Daemon, broker: Mosquitto) -> None:
    """Streamed or whole it is the same text; nothing is said on stderr."""
    options = ("--seed", "3", "--max-tokens", "30", "hello")
    streamed, whole = ask(broker.port, *options), ask(broker.port, "--no-stream", *options)
    assert (streamed.returncode, streamed.stderr) == (0, "")
    assert streamed.stdout.strip()
    assert whole.stdout.rstrip("\n") == streamed.stdout.rstrip("\n")


def test_the_result_as_json_is_the_terminal_frame(daemon: Daemon, broker: Mosquitto, tmp_path: Path) -> None:
    """With a schema, what is in it is JSON too."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum":["yes","no"]}')
    done = ask(broker.port, "--node", NODE, "--json", "--schema", str(schema), "--session", "s", "hello")
    frame = json.loads(done.stdout)
    assert (frame["type"], frame["node"], frame["finish_reason"]) == ("done", NODE, "stop")
    assert json.loads(frame["text"]) in {"yes", "no"}


def test_our_name_and_password_reach_the_broker(daemon: Daemon, broker: Mosquitto, tmp_path: Path) -> None:
    """The user is the client, unless another name is given."""
    (tmp_path / "password").write_text("secret\n")
    login = ("--mqtt-user", "ann", "--mqtt-password-file", str(tmp_path / "password"))
    with Device(broker.port, f"{BASE}/request/+") as device:
        assert ask(broker.port, "--node", NODE, *login, "hello").returncode == 0
        assert ask(broker.port, "--node", NODE, *login, "--mqtt-client", "bob", "hello").returncode == 0
        assert [m.topic for m in device.messages] == [f"{BASE}/request/ann", f"{BASE}/request/bob"]
    done = ask(broker.port, "--mqtt-user", "ann", "--mqtt-password-file", str(tmp_path), "hello")
    assert done.returncode == 1
    assert f"{tmp_path}: no password can be read from it" in done.stderr


def test_of_several_boxes_one_must_be_named(daemon: Daemon, broker: Mosquitto) -> None:
    """The error names them."""
    with Device(broker.port, f"{BASE}/status") as device:
        device.publish("tampu/v1/attic/status", '{"state":"online"}', retain=True)
    done = ask(broker.port, "hello")
    assert done.returncode == 69
    assert done.stderr == "tampu: name a node, there are several: attic (online), box (online)\n"


def test_a_broker_that_is_not_there_is_69() -> None:
    """With its address, and without a traceback."""
    port = free_port()
    done = ask(port, "--timeout", "1", "hello")
    assert done.returncode == 69
    assert done.stderr.startswith(f"tampu: the broker at 127.0.0.1:{port}: ")


def test_a_busy_box_is_75(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """After it was asked again for as long as was said."""
    start_daemon(step_s=0.05, limits={"queue": 1})
    with Device(broker.port, f"{BASE}/response/me/#") as device:
        device.publish(f"{BASE}/request/me", {"id": "r1", "prompt": "LONG", "max_tokens": 900})
        device.wait_frame(type="delta")
        done = ask(broker.port, "--node", NODE, "--timeout", "2", "hello")
    assert done.returncode == 75
    assert done.stderr.startswith("tampu: ")


def test_other_refusals_are_1(daemon: Daemon, broker: Mosquitto) -> None:
    """With the box's sentence."""
    done = ask(broker.port, "--node", NODE, "--profile", "nobody", "hello")
    assert done.returncode == 1
    assert done.stderr.startswith("tampu: profile: 'nobody' is not configured")


@pytest.mark.parametrize("words", [("--node", "a/b", "hello"), ("--pool", "#", "hello")])
def test_a_name_that_is_none_is_said_before_anything_is_sent(words: tuple[str, ...]) -> None:
    """It would be a topic of somebody else's."""
    done = ask(free_port(), *words)
    assert done.returncode == 1
    assert "is no name" in done.stderr


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf", "1e12", "soon"])
def test_a_time_that_is_none_is_a_mistake_of_usage(seconds: str) -> None:
    """And not a broker that does not answer."""
    done = ask(free_port(), "hello", "--timeout", seconds)
    assert done.returncode == 2
    assert "is no time" in done.stderr
