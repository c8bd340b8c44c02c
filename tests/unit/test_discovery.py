"""Home Assistant's discovery: what is announced, and what its templates make of what this box says."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.errors import BadReplyTopic
from agent.mqtt import discovery, frames
from agent.mqtt.channels import BIRTH, CANCEL, REQUEST
from agent.mqtt.home_assistant import BinarySensor, Button, Component, Event, Notify, Sensor
from agent.mqtt.payloads import open_envelope, parse_cancel, parse_draft
from agent.mqtt.topics import Routed, Topics
from agent.request import Timings, Usage
from agent.status import ModelStatus
from tests.support.home_assistant import command, read, render

TOPICS = Topics("tampu/v1", "box", home_assistant="homeassistant")
PAYLOAD = discovery.discovery_message(TOPICS, Config(node="box"), "1.2.3")
FOUND = read(PAYLOAD)
PROMPT, ANSWER, CANCEL_BUTTON = (FOUND.components[key] for key in ("prompt", "answer", "cancel"))
assert isinstance(PROMPT, Notify)
assert isinstance(ANSWER, Event)
assert isinstance(CANCEL_BUTTON, Button)

STATUS = frames.StatusPayload(state="online", reason="", boot_id="b", since=1.5)
HEALTH = frames.HealthPayload(
    state="online",
    queue=3,
    active=1,
    tokens_per_s=101.3,
    rss_bytes=244 << 20,
    hard_bytes=None,
    hot_file_bytes=None,
    cells_used=0,
    cells_total=0,
    temperature_c=48.5,
    is_throttled=None,
    written_per_day_bytes=None,
    uptime_s=1.0,
    drops=0,
)
COMMON: dict[str, Any] = {"id": "r1", "seq": 1, "run": 1, "node": "box"}
DONE = frames.Done(
    **COMMON,
    finish_reason="stop",
    usage=Usage(1, 0, 2),
    timings=Timings(0.0, 0.1, 0.2),
    text='He said "no",\nthen {{ left }} é 🙂',
)
ERROR = frames.ErrorFrame(**COMMON, code="busy", status=503, message="the queue is full", retryable=True)
ON_THE_WAY = (
    frames.Accepted(
        **COMMON,
        queue_pos=0,
        boot_id="b",
        max_tokens=1,
        seed=1,
        temperature=0.0,
        top_p=1.0,
        ttl_s=None,
        priority=0,
    ),
    frames.Progress(**COMMON, phase="prefill", queue_pos=0, prompt_done=1, prompt_total=2),
    frames.DeltaFrame(**COMMON, off=0, text="type done"),
    frames.Snapshot(**COMMON, off=0, text="done"),
    frames.Chunk(**COMMON, off=0, text="done"),
)
SHOWN = [key for key, part in FOUND.components.items() if isinstance(part, Sensor | BinarySensor)]


def state(key: str, payload: bytes) -> str:
    """What an entity shows after this payload."""
    component = FOUND.components[key]
    assert isinstance(component, Sensor | BinarySensor)
    return render(component.value_template, payload)


def event(payload: bytes) -> dict[str, Any]:
    """The event that an answer's frame makes, or nothing."""
    assert isinstance(ANSWER, Event)
    text = render(ANSWER.value_template, payload)
    return dict(json.loads(text)) if text else {}


def topics_of(component: Component) -> set[str]:
    tree = msgspec.to_builtins(component)
    return {value for key, value in tree.items() if key.endswith("_topic")}


def test_the_message_fits_one_publish() -> None:
    """It is JSON, and with its topic far below what any broker takes."""
    assert TOPICS.discovery == "homeassistant/device/box/config"
    assert msgspec.json.decode(PAYLOAD)["origin"] == {"name": "Tampu", "sw_version": "1.2.3"}
    assert len(PAYLOAD) + len(TOPICS.discovery) < 16384


def test_it_listens_and_speaks_on_topics_of_the_contract_only() -> None:
    """Commands arrive as the client `homeassistant`'s; everything shown is published by this box."""
    shown = {TOPICS.status, TOPICS.info, TOPICS.health, TOPICS.response("homeassistant", "+")}
    said = set()
    for component in FOUND.components.values():
        for topic in topics_of(component):
            assert topic in shown or TOPICS.route(topic), topic
            said.add(topic)
    assert shown < said
    assert FOUND.availability_topic == TOPICS.status
    assert TOPICS.route(PROMPT.command_topic) == Routed(REQUEST, {"client": "homeassistant"})
    assert TOPICS.route(CANCEL_BUTTON.command_topic) == Routed(CANCEL, {"client": "homeassistant"})


@pytest.mark.parametrize("node", ["box", "a.b", "a_b", "..a..", "x" * 64, "ab.", "raspberrypi-3f2a"])
def test_every_node_has_an_id_that_home_assistant_takes(node: str) -> None:
    """Topic and ids hold letters, digits, `_` and `-` only, whatever the node is called."""
    topics = Topics("tampu/v1", node, home_assistant="ha/discovery")
    found = read(discovery.discovery_message(topics, Config(node=node), "1"))
    assert re.fullmatch(r"ha/discovery/device/[a-zA-Z0-9_-]+/config", topics.discovery or "")
    ids = [component.unique_id for component in found.components.values()]
    assert len(set(ids)) == len(ids) == len(found.components)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", one) for one in (*ids, *found.components))
    assert found.device.name == node


def test_two_nodes_are_never_one_device() -> None:
    """`a.b` and `a_b` differ in what stands for them."""
    devices = {Topics("p", node, home_assistant="h").discovery for node in ("a.b", "a_b", "a-b", "a..b")}
    assert len(devices) == 4


def test_ids_stay_when_the_configuration_or_the_release_changes() -> None:
    """Home Assistant keeps what people renamed and placed."""
    config = Config(node="box", mqtt=msgspec.structs.replace(Config().mqtt, health_s=5.0))
    later = read(discovery.discovery_message(TOPICS, config, "2.0.0"))
    assert later.device.identifiers == FOUND.device.identifiers
    assert [c.unique_id for c in later.components.values()] == [
        c.unique_id for c in FOUND.components.values()
    ]


def test_nothing_of_it_is_there_while_it_is_switched_off() -> None:
    """No topic to publish on, none to subscribe to, and a foreign `x/status` is not ours."""
    off = Topics("tampu/v1", "box")
    assert off.discovery is None
    assert all(one.startswith("tampu/v1/box/") for one in off.filters())
    assert [off.route(topic) for topic in ("homeassistant/status", "/status")] == [None, None]


def test_home_assistants_birth_is_heard() -> None:
    """On its own prefix, of however many levels; and nobody may have answers sent there."""
    topics = Topics("tampu/v1", "box", reply_prefixes=("ha",), home_assistant="ha/discovery")
    assert "ha/discovery/status" in topics.filters()
    assert topics.route("ha/discovery/status") == Routed(BIRTH, {})
    for topic in ("ha/discovery/status", "ha/discovery/device/box/config"):
        with pytest.raises(BadReplyTopic):
            topics.check_reply(topic, "me")


def test_only_online_is_a_birth() -> None:
    """Its last will is `offline`."""
    assert [discovery.is_birth(text) for text in (b"online", b"offline", b"", b"\xff")] == [True] + [
        False
    ] * 3
    assert 0 < discovery.birth_delay_s() <= 10


@pytest.mark.parametrize(
    ("noted", "topics", "retired"),
    [
        (None, Topics("tampu/v1", "box"), None),
        (None, TOPICS, None),
        ("homeassistant/device/box/config", TOPICS, None),
        ("homeassistant/device/box/config", Topics("tampu/v1", "box"), "homeassistant/device/box/config"),
        ("homeassistant/device/old/config", TOPICS, "homeassistant/device/old/config"),
    ],
)
def test_what_was_announced_is_taken_back(noted: str | None, topics: Topics, retired: str | None) -> None:
    """When it is switched off or called otherwise; a box that never announced itself publishes nothing."""
    assert discovery.retired_topic(noted, topics) == retired


def test_readings_are_shown() -> None:
    """Numbers as numbers, memory in MiB."""
    payload = frames.encode(HEALTH)
    assert [state(key, payload) for key in ("queue", "active", "speed", "memory", "temperature")] == [
        "3",
        "1",
        "101.3",
        "244.0",
        "48.5",
    ]


def test_what_a_box_does_not_know_is_unknown() -> None:
    """`None` is the word for that: a box without thermometer, one whose model is not loaded yet."""
    cold = frames.encode(msgspec.structs.replace(HEALTH, temperature_c=None))
    assert state("temperature", cold) == "None"
    assert state("model", b'{"model":null}') == "None"


@pytest.mark.parametrize(
    "key", [k for k, c in FOUND.components.items() if isinstance(c, Sensor | BinarySensor)]
)
@pytest.mark.parametrize("payload", [b"", b"7", b'"text"', b"[]", b"\xc3\xa9", b"{"])
def test_a_payload_that_is_not_ours_makes_every_entity_unknown(key: str, payload: bytes) -> None:
    """Somebody emptied the topic, or used it: no template fails over that."""
    assert state(key, payload) == "None"


@pytest.mark.parametrize("name", ["starting", "online", "degraded", "stopping", "offline"])
def test_states_and_problems(name: str) -> None:
    """Each state is an option that was announced; degraded is a problem, offline not available."""
    payload = frames.encode(msgspec.structs.replace(STATUS, state=name, reason="x" * 5000))
    sensor = FOUND.components["state"]
    assert isinstance(sensor, Sensor)
    assert state("state", payload) in (sensor.options or ())
    assert state("problem", payload) == ("ON" if name == "degraded" else "OFF")
    available = render(FOUND.availability_template, payload)
    assert available == ("offline" if name == "offline" else "online")
    attributes = json.loads(render(sensor.json_attributes_template or "", payload))
    assert len(attributes["reason"]) == discovery.MAX_REASON_CHARS


def test_no_state_is_longer_than_home_assistant_allows() -> None:
    """255 characters; a model may be called after a file with a longer name."""
    model = ModelStatus("m" * 250, "Q4_K_M", "", "", 1, 1)
    shown = state("model", msgspec.json.encode({"model": model}))
    assert len(shown) == 255
    assert state("model", msgspec.json.encode({"model": {"name": "a", "quant": "Q8_0"}})) == "a Q8_0"


@given(st.text().filter(str.strip))
def test_any_text_becomes_a_prompt(text: str) -> None:
    """Quotes, newlines, braces: the request holds exactly what the automation said."""
    payload = command(PROMPT.command_template, text)
    envelope, error = open_envelope(payload, is_json=False, max_bytes=1 << 20)
    assert error is None
    draft, wants_stream = parse_draft(envelope, "homeassistant", None)
    assert [message.content for message in draft.messages] == [text]
    assert not wants_stream


@pytest.mark.parametrize("text", ['say "hi"\n\\n', "{{ states('x') }}", "{% raw %}", "<b>&'", "é 🙂 \u2028"])
def test_awkward_prompts(text: str) -> None:
    """The ones people meet, by name."""
    envelope, error = open_envelope(command(PROMPT.command_template, text), is_json=False, max_bytes=65536)
    assert error is None
    assert parse_draft(envelope, "homeassistant", None)[0].messages[0].content == text


def test_the_button_cancels_everything_of_home_assistant() -> None:
    """Its payload is a cancel of all."""
    assert parse_cancel(CANCEL_BUTTON.payload_press.encode(), 65536).all


def test_done_is_an_event_with_the_text() -> None:
    """As an attribute, whole, however long."""
    assert event(frames.encode(DONE)) == {
        "event_type": "done",
        "id": "r1",
        "text": DONE.text,
        "finish_reason": "stop",
    }
    long = msgspec.structs.replace(DONE, text="long " * 5000)
    assert event(frames.encode(long))["text"] == long.text


def test_an_error_is_an_event_with_its_code() -> None:
    """And whether to try again."""
    assert event(frames.encode(ERROR)) == {
        "event_type": "error",
        "id": "r1",
        "code": "busy",
        "message": "the queue is full",
        "retryable": True,
    }


def test_an_answer_in_chunks_is_an_error_event() -> None:
    """Home Assistant cannot put them together, and must not wait for ever."""
    chunked = msgspec.structs.replace(DONE, text=None, chunks=2, sha256="00")
    assert event(frames.encode(chunked))["code"] == "too_large"


@pytest.mark.parametrize("frame", ON_THE_WAY, ids=lambda frame: type(frame).__name__)
def test_frames_on_the_way_are_no_events(frame: msgspec.Struct) -> None:
    """Nothing comes of them, which Home Assistant passes over without a word."""
    assert event(frames.encode(frame)) == {}


TYPES = st.sampled_from(["done", "error", "delta", 1, None])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["id", "text", "code", "message", "x"]), VALUES), TYPES)
def test_whatever_is_published_there_makes_an_event_or_none(fields: dict[str, Any], kind: object) -> None:
    """The template never fails, and its event has a type that was announced."""
    assert isinstance(ANSWER, Event)
    made = event(msgspec.json.encode({**fields, "type": kind}))
    assert made == {} or made["event_type"] in ANSWER.event_types


@given(st.binary(max_size=20).filter(lambda b: b.decode("utf-8", "replace").encode() == b))
def test_bare_text_there_is_no_event(payload: bytes) -> None:
    """An answer asked for with `format: text` goes by."""
    assert event(payload) == {}
