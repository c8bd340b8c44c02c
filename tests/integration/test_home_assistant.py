"""Home Assistant on the broker: first what stands in for it, then, where it is installed, itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.mqtt.home_assistant import Event, Notify
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.home_assistant import VARIABLE, HomeAssistant, command, has_home_assistant, read, render
from tests.support.processes import Daemon, Mosquitto, wait_until

CONFIG = "homeassistant/device/box/config"
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def home_daemon(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> Daemon:
    """A box that announces itself and says every second how it is doing."""
    return start_daemon(mqtt={"port": broker.port, "home_assistant": True, "health_s": 1})


@pytest.fixture(scope="module")
def installed() -> None:
    """Skips what needs the real one where there is none."""
    if not has_home_assistant():
        pytest.skip(f"no Home Assistant: {VARIABLE} names a Python that has it (README, Tests)")


@pytest.fixture
def home(installed: None, broker: Mosquitto, home_daemon: Daemon) -> Iterator[HomeAssistant]:
    """A real Home Assistant that has found the box, with README's automations."""
    with HomeAssistant(broker.port, automations()) as home:
        home.wait_state("sensor.box_state", "online")
        yield home


def automations() -> list[Any]:
    """Those of README's section on it."""
    section = README.read_text().split("### Home Assistant", 1)[1]
    blocks = [block.removeprefix("yaml\n") for block in section.split("```")[1::2]]
    found: list[Any] = next(yaml.safe_load(block)["automation"] for block in blocks if "automation:" in block)
    return found


def test_a_box_announces_itself_and_answers_through_its_own_templates(
    home_daemon: Daemon, broker: Mosquitto
) -> None:
    """What the retained message says how to do is done: a prompt goes out, one event comes of its frames."""
    with Device(broker.port, CONFIG, f"{BASE}/#") as device:
        found = read(json.dumps(device.wait_frame("/config")).encode())
        prompt, answer = found.components["prompt"], found.components["answer"]
        assert isinstance(prompt, Notify)
        assert isinstance(answer, Event)
        device.publish(prompt.command_topic, command(prompt.command_template, 'say "hi"\n{{ é }} 🙂'))
        done = device.wait_frame(type="done")
        frames = [m for m in device.messages if m.topic.startswith(answer.state_topic.removesuffix("+"))]
    events = [render(answer.value_template, message.payload) for message in frames]
    made = [json.loads(event) for event in events if event]
    assert [(event["event_type"], event["text"]) for event in made] == [("done", done["text"])]
    assert all(message.topic.count("/") == answer.state_topic.count("/") for message in frames)


def test_a_birth_brings_the_announcement_again(home_daemon: Daemon, broker: Mosquitto) -> None:
    """Home Assistant came up: within seconds it is told again, even where the broker had lost it."""
    with Device(broker.port, CONFIG) as device:
        device.wait_frame("/config")
        device.publish(CONFIG, b"", retain=True)
        device.publish("homeassistant/status", "offline")
        device.publish("homeassistant/status", "online")
        wait_until(lambda: len(device.frames("/config")) == 2, "the announcement")
        first, second = device.frames("/config")
    assert first == second


def test_switched_off_the_box_takes_its_device_away(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, tmp_path: Path
) -> None:
    """At the next start, since its journal knows what was announced."""
    journal = {"folder": str(tmp_path)}
    with Device(broker.port, CONFIG) as device:
        start_daemon(name="on", mqtt={"port": broker.port, "home_assistant": True}, journal=journal).stop()
        start_daemon(name="off", mqtt={"port": broker.port}, journal=journal)
        wait_until(lambda: len(device.messages) == 2, "the removal")
        assert [bool(message.payload) for message in device.messages] == [True, False]


def test_without_the_option_nothing_is_announced(daemon: Daemon, broker: Mosquitto) -> None:
    """Not at the start, and not when Home Assistant comes up."""
    with Device(broker.port, "homeassistant/#", f"{BASE}/#") as device:
        device.publish("homeassistant/status", "online")
        device.publish(f"{BASE}/request/me", {"id": "r1", "prompt": "hello"})
        device.wait_end("r1")
        assert {m.topic for m in device.messages if m.topic.startswith("home")} == {"homeassistant/status"}


def test_home_assistant_shows_the_box(home: HomeAssistant) -> None:
    """Every entity is there under the device's name, and it has nothing to complain of."""
    wait_until(
        lambda: home.states()["sensor.box_memory"]["state"] not in {"unknown", "unavailable"}, "memory"
    )
    states = home.states()
    assert states["binary_sensor.box_problem"]["state"] == "off"
    assert float(states["sensor.box_memory"]["state"]) > 1
    assert {
        "sensor.box_waiting",
        "sensor.box_running",
        "sensor.box_speed",
        "sensor.box_model",
    } <= states.keys()
    assert {"sensor.box_temperature", "button.box_cancel", "notify.box_prompt"} <= states.keys()
    assert home.complaints() == []


@pytest.mark.parametrize("text", ['say "hi"\nand {{ 1 + 1 }}', "é 🙂 <b>'&\\"])
def test_home_assistant_asks_and_hears_the_answer(home: HomeAssistant, broker: Mosquitto, text: str) -> None:
    """The prompt arrives as it was written, and the event holds the text of `done`."""
    with Device(broker.port, f"{BASE}/#") as device:
        home.call("notify", "send_message", "notify.box_prompt", message=text)
        asked = device.wait_frame("/request/homeassistant")
        done = device.wait_frame(type="done")
    assert asked == {"v": 1, "prompt": text, "stream": False}
    event = home.wait_event("event.box_answer", event_type="done", id=done["id"])
    assert event["text"] == done["text"]
    assert home.complaints() == []


def test_home_assistant_hears_of_errors(home: HomeAssistant) -> None:
    """An empty prompt is refused, and the event says so."""
    home.call("notify", "send_message", "notify.box_prompt", message=" ")
    assert home.wait_event("event.box_answer", event_type="error")["code"] == "bad_request"
    assert home.complaints() == []


def test_readmes_automation_speaks_the_answer_once(home: HomeAssistant, home_daemon: Daemon) -> None:
    """As it stands there: triggered, it asks, and the answer is spoken; and not again after a restart."""
    home.call("automation", "trigger", "automation.ask_at_seven")
    answer = home.wait_event("event.box_answer", event_type="done")
    spoken = wait_until(home.spoken, "a word")
    assert [one["message"] for one in spoken] == [answer["text"].strip()]
    assert spoken[0]["media_player_entity_id"] == "media_player.kitchen"
    home_daemon.kill()
    home.wait_state("event.box_answer", "unavailable")
    home_daemon.start()
    home.wait_state("sensor.box_state", "online")
    assert home.wait_event("event.box_answer", event_type="done") == answer
    assert home.spoken() == spoken


@pytest.mark.usefixtures("installed")
def test_the_button_stops_what_home_assistant_asked(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """And the event tells how the answer ended."""
    start_daemon(step_s=0.05, mqtt={"port": broker.port, "home_assistant": True})
    with HomeAssistant(broker.port) as home, Device(broker.port, f"{BASE}/#") as device:
        home.wait_state("sensor.box_state", "online")
        home.call("notify", "send_message", "notify.box_prompt", message="LONG")
        device.wait_frame(type="accepted")
        home.call("button", "press", "button.box_cancel")
        device.wait_frame("/cancel/homeassistant", all=True)
        ended = wait_until(lambda: home.states()["event.box_answer"]["attributes"].get("id"), "an end")
        event = home.wait_event("event.box_answer", id=ended)
    assert "cancelled" in {event.get("finish_reason"), event.get("code")}


def test_a_box_that_dies_is_unavailable_and_comes_back(home: HomeAssistant, home_daemon: Daemon) -> None:
    """By its last will; the entities stay the same."""
    entities = home.states().keys()
    home_daemon.kill()
    home.wait_state("sensor.box_state", "unavailable")
    home_daemon.start()
    home.wait_state("sensor.box_state", "online")
    assert home.states().keys() == entities
    assert home.complaints() == []


def test_an_empty_announcement_takes_the_device_away(home: HomeAssistant, broker: Mosquitto) -> None:
    """Which is how a box says that the option was switched off."""
    with Device(broker.port, CONFIG) as device:
        device.publish(CONFIG, b"", retain=True)
    wait_until(lambda: not any(".box_" in entity for entity in home.states()), "the box is gone")
    assert home.complaints() == []
