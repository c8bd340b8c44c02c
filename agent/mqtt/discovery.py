"""This box as a device of Home Assistant: it shows how it is doing, takes prompts and tells the answers.

Home Assistant asks and cancels as the client `homeassistant`, on the topics every client has. A state of it
ends at 255 characters, so the answer's text is an attribute of an event. The templates below run in Home
Assistant, on every message of their topic: whatever it is, they must not fail there or warn.
"""

import math
import random
from typing import Any, get_args

import msgspec

from agent.config import Config
from agent.mqtt.channels import CANCEL, REQUEST
from agent.mqtt.home_assistant import (
    BinarySensor,
    Button,
    Component,
    Device,
    Discovery,
    Event,
    Notify,
    Origin,
    Sensor,
)
from agent.mqtt.names import device_id
from agent.mqtt.topics import Topics
from agent.status import BoxState

CLIENT = "homeassistant"
"""The client Home Assistant is on the wire; an entry of `clients` bounds it like any other."""

# When Home Assistant comes up, all boxes of a house would announce themselves in the same instant.
BIRTH_DELAY_S = (1.0, 10.0)
# A reading is taken for stale after so many that did not come.
MISSED_READINGS = 3
MIN_STALE_S = 60
MAX_STATE_CHARS = 255
MAX_REASON_CHARS = 1000
MIB = 1 << 20

# Whatever the box is but `offline`, it can be talked to. An emptied topic says that there is none.
AVAILABILITY = (
    "{{ 'online' if value_json is mapping and value_json.get('state') != 'offline' else 'offline' }}"
)
# `tojson` quotes any text; the answer comes whole, since states and events have no use for its pieces.
ASK = '{"v":1,"prompt":{{ value | tojson }},"stream":false}'
CANCEL_ALL = '{"all":true}'
ANSWER = """
{%- set frame = value_json if value_json is mapping else {} -%}
{%- if frame.get('type') == 'done' and frame.get('text') is string -%}
{{ {'event_type': 'done', 'id': frame.get('id'), 'text': frame.get('text'),
    'finish_reason': frame.get('finish_reason')} | tojson }}
{%- elif frame.get('type') == 'done' -%}
{{ {'event_type': 'error', 'id': frame.get('id'), 'code': 'too_large', 'retryable': false,
    'message': 'the answer came in several parts; ask for a shorter one'} | tojson }}
{%- elif frame.get('type') == 'error' -%}
{{ {'event_type': 'error', 'id': frame.get('id'), 'code': frame.get('code'),
    'retryable': frame.get('retryable'), 'message': frame.get('message')} | tojson }}
{%- endif -%}
""".strip()


def discovery_message(topics: Topics, config: Config, version: str) -> bytes:
    """The JSON to retain on `topics.discovery`. It is the same after every start of one release, so that
    publishing it again changes nothing."""
    device = f"tampu_{device_id(topics.node)}"
    found = Discovery(
        device=Device(
            identifiers=(device,),
            name=topics.node,
            manufacturer="Tampu",
            model="Language model",
            sw_version=version,
        ),
        origin=Origin(name="Tampu", sw_version=version),
        availability_topic=topics.status,
        availability_template=AVAILABILITY,
        components={
            key: msgspec.structs.replace(component, unique_id=f"{device}_{key}")
            for key, component in _components(topics, config.mqtt.health_s).items()
        },
    )
    return msgspec.json.encode(found)


def is_birth(payload: bytes) -> bool:
    """True where Home Assistant says that it has come up: time to publish the message again."""
    return payload.strip() == b"online"


def birth_delay_s() -> float:
    """How long to wait with that, so that many boxes do not speak at once."""
    return random.uniform(*BIRTH_DELAY_S)  # noqa: S311 - spreads load, hides nothing


def retired_topic(noted: str | None, topics: Topics) -> str | None:
    """The topic of an earlier start that an empty retained payload has to clear now, or None.

    `noted` is the topic as it was written down before the message was first published there. A box that
    never announced itself has no note, and so publishes nothing while the option is off; one whose option,
    prefix or node was changed takes the old device away.
    """
    return noted if noted != topics.discovery else None


def _components(topics: Topics, health_s: float) -> dict[str, Component]:
    return {**_state(topics), **_readings(topics, health_s), **_conversation(topics)}


def _state(topics: Topics) -> dict[str, Component]:
    """What `status` and `info` say."""
    reason = _if_json(f"{{'reason': value_json.get('reason', '')[:{MAX_REASON_CHARS}]}} | tojson", "'{}'")
    name = f"(value_json.model.name ~ ' ' ~ value_json.model.quant)[:{MAX_STATE_CHARS}]"
    return {
        "state": Sensor(
            name="State",
            icon="mdi:message-processing-outline",
            state_topic=topics.status,
            value_template=_if_json("value_json.get('state')"),
            json_attributes_topic=topics.status,
            json_attributes_template=reason,
            device_class="enum",
            options=get_args(BoxState),
        ),
        "problem": BinarySensor(
            name="Problem",
            entity_category="diagnostic",
            state_topic=topics.status,
            value_template=_if_json("'ON' if value_json.get('state') == 'degraded' else 'OFF'"),
            json_attributes_topic=topics.status,
            json_attributes_template=reason,
            device_class="problem",
        ),
        "model": Sensor(
            name="Model",
            icon="mdi:brain",
            entity_category="diagnostic",
            state_topic=topics.info,
            value_template=_if_json(f"{name} if value_json.get('model') else none"),
        ),
    }


def _readings(topics: Topics, health_s: float) -> dict[str, Component]:
    """What `health` says. Without a thermometer the temperature stays unknown."""
    stale_s = max(MIN_STALE_S, math.ceil(MISSED_READINGS * health_s))
    plain = Sensor(
        name="Reading",
        entity_category="diagnostic",
        state_topic=topics.health,
        value_template="",
        state_class="measurement",
        expire_after=stale_s,
    )

    def reading(name: str, value: str, **more: Any) -> Sensor:
        return msgspec.structs.replace(plain, name=name, value_template=_if_json(value), **more)

    mebibytes = f"(value_json.get('rss_bytes', 0) / {MIB}) | round(1)"
    return {
        "speed": reading(
            "Speed",
            "value_json.get('tokens_per_s')",
            icon="mdi:speedometer",
            unit_of_measurement="tok/s",
            suggested_display_precision=1,
        ),
        "queue": reading("Waiting", "value_json.get('queue')", icon="mdi:tray-full"),
        "active": reading("Running", "value_json.get('active')", icon="mdi:tray-arrow-up"),
        "memory": reading("Memory", mebibytes, device_class="data_size", unit_of_measurement="MiB"),
        "temperature": reading(
            "Temperature",
            "value_json.get('temperature_c')",
            device_class="temperature",
            unit_of_measurement="°C",
        ),
    }


def _conversation(topics: Topics) -> dict[str, Component]:
    """A prompt in, its answer out, and the way to stop it."""
    return {
        "prompt": Notify(
            name="Prompt",
            icon="mdi:message-text-outline",
            qos=1,
            command_topic=topics.of(REQUEST, CLIENT),
            command_template=ASK,
        ),
        "answer": Event(
            name="Answer",
            icon="mdi:message-reply-text-outline",
            qos=1,
            state_topic=topics.response(CLIENT, "+"),
            value_template=ANSWER,
            event_types=("done", "error"),
        ),
        "cancel": Button(
            name="Cancel",
            icon="mdi:message-off-outline",
            qos=1,
            command_topic=topics.of(CANCEL, CLIENT),
            payload_press=CANCEL_ALL,
        ),
    }


def _if_json(expression: str, otherwise: str = "none") -> str:
    """A template of the expression over `value_json`; Home Assistant reads None as unknown."""
    return f"{{{{ ({expression}) if value_json is mapping else {otherwise} }}}}"
