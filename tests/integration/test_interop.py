"""Clients of other people's making: mosquitto's tools and mqtt.js, as somebody without our code uses them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import BASE
from tests.support.processes import Daemon, Mosquitto

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[2]
UNREACHABLE = 69


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """The output of a command that succeeds."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=os.environ | (environment or {}), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def mosquitto(tool: str, broker: Mosquitto, *options: str) -> list[str]:
    return [f"mosquitto_{tool}", "-p", str(broker.port), *options]


@contextmanager
def subscribed(broker: Mosquitto, topic: str, last: str, *options: str) -> Iterator[Callable[[], list[str]]]:
    """mosquitto_sub at work; what it gives waits for a line that holds `last`, and gives all lines."""
    seen: list[str] = []
    command = mosquitto("sub", broker, "-d", "-v", "-q", "1", "-t", topic, *options)
    with subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "SUBACK" in line or line.startswith("Subscribed"):
                break

        def read() -> list[str]:
            assert process.stdout is not None
            for line in process.stdout:
                seen.append(line.rstrip("\n"))
                if last in line:
                    break
            return [line for line in seen if line.startswith("tampu/")]

        try:
            yield read
        finally:
            process.terminate()


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_pub_asks_and_mosquitto_sub_reads(daemon: Daemon, broker: Mosquitto, version: str) -> None:
    """The README's two lines."""
    with subscribed(broker, f"{BASE}/response/me/#", '"type":"done"', "-V", version) as read:
        run(*mosquitto("pub", broker, "-V", version, "-q", "1", "-t", f"{BASE}/request/me", "-m", "Hi."))
        lines = [line.partition(" ") for line in read()]
    frames = [json.loads(payload) for _, _, payload in lines]
    assert {topic for topic, _, _ in lines} == {f"{BASE}/response/me/{frames[0]['id']}"}
    assert [frames[0]["type"], frames[-1]["type"]] == ["accepted", "done"]
    assert "".join(frame["text"] for frame in frames if frame["type"] == "delta") == frames[-1]["text"]


def test_a_prompt_from_a_pipe_needs_no_quoting(daemon: Daemon, broker: Mosquitto, tmp_path: Path) -> None:
    """`mosquitto_pub -f FILE`: several lines are one prompt."""
    (tmp_path / "prompt").write_text('Say "hi",\nand\tthen stop.\n')
    with subscribed(broker, f"{BASE}/response/me/#", '"type":"done"') as read:
        run(*mosquitto("pub", broker, "-q", "1", "-t", f"{BASE}/request/me", "-f", str(tmp_path / "prompt")))
        assert '"type":"done"' in read()[-1]


def test_mosquitto_rr_gets_the_whole_answer_in_one_message(daemon: Daemon, broker: Mosquitto) -> None:
    """It leaves after the first message, so that has to be all of it; its Response Topic is used."""
    request = '{"prompt":"a LONG story","max_tokens":30,"seed":1,"format":"text","stream":false}'
    topics = ("-t", f"{BASE}/request/me", "-e", f"{BASE}/response/me/rr")
    said = run(*mosquitto("rr", broker, "-V", "mqttv5", *topics, "-m", request))
    assert len(said.split()) > 5
    assert not said.startswith("{")


def test_an_error_of_bare_text_has_a_topic_of_its_own(daemon: Daemon, broker: Mosquitto) -> None:
    """`code: message`, for a shell script."""
    reply = f"{BASE}/response/me/mine"
    request = json.dumps({"prompt": "", "format": "text", "reply_to": reply})
    with subscribed(broker, f"{reply}/#", "bad_request") as read:
        run(*mosquitto("pub", broker, "-q", "1", "-t", f"{BASE}/request/me", "-m", request))
        assert read() == [f"{reply}/error bad_request: prompt: must not be empty"]


@pytest.fixture(scope="session")
def mqttjs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with mqtt.js and a node; fetched once, and skipped only where that cannot be."""
    script = ROOT / "build" / "mqttjs.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode == UNREACHABLE:
        pytest.skip(f"mqtt.js: {done.stderr.strip()}; './build/test' with a network fetches it once")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", ["4", "5"])
def test_mqttjs_understands_us(daemon: Daemon, broker: Mosquitto, mqttjs: Path, version: str) -> None:
    """The receiver's rule in another language: deltas add up to `done`, MQTT 5's properties come back."""
    script = ROOT / "tests" / "support" / "mqttjs_client.js"
    command = (str(mqttjs / "bin" / "node"), str(script), str(broker.port), version, BASE)
    said: dict[str, Any] = json.loads(
        run(*command, environment={"MQTTJS": str(mqttjs / "node_modules" / "mqtt")})
    )
    assert said["types"][0] == "accepted"
    assert said["types"][-1] == "done"
    assert "delta" in said["types"]
    assert said["text"] == said["end"]["text"] != ""
    assert set(said["correlations"]) == ({"c-7"} if version == "5" else set())
