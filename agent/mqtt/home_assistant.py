"""The words of Home Assistant's MQTT device discovery, as far as we use them.

The keys and what they allow are its own (its documentation, "MQTT: discovery messages", and the schemas in
its components/mqtt/); discovery.py fills them in.
"""

from typing import Literal

from msgspec import Struct


class _Component(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="platform"):
    """One entity. `unique_id` is what Home Assistant remembers it by, whatever people rename it to."""

    name: str
    unique_id: str = ""
    qos: int = 0
    icon: str | None = None
    entity_category: Literal["diagnostic"] | None = None


class _Reading(_Component, frozen=True, kw_only=True):
    """An entity that shows what is published. It is unavailable after `expire_after` seconds of silence."""

    state_topic: str
    value_template: str
    json_attributes_topic: str | None = None
    json_attributes_template: str | None = None
    device_class: str | None = None
    expire_after: int | None = None


class Sensor(_Reading, frozen=True, kw_only=True, tag="sensor"):
    options: tuple[str, ...] | None = None
    state_class: Literal["measurement"] | None = None
    unit_of_measurement: str | None = None
    suggested_display_precision: int | None = None


class BinarySensor(_Reading, frozen=True, kw_only=True, tag="binary_sensor"):
    """ON and OFF."""


class Event(_Component, frozen=True, kw_only=True, tag="event"):
    """Happens with a type and attributes; its state is the time."""

    state_topic: str
    value_template: str
    event_types: tuple[str, ...]


class Notify(_Component, frozen=True, kw_only=True, tag="notify"):
    """Takes a text from automations."""

    command_topic: str
    command_template: str


class Button(_Component, frozen=True, kw_only=True, tag="button"):
    command_topic: str
    payload_press: str


class Device(Struct, frozen=True, kw_only=True):
    identifiers: tuple[str, ...]
    name: str
    manufacturer: str
    model: str
    sw_version: str


class Origin(Struct, frozen=True, kw_only=True):
    """Who announces the device, for Home Assistant's log."""

    name: str
    sw_version: str


Component = Sensor | BinarySensor | Event | Notify | Button


class Discovery(Struct, frozen=True, kw_only=True):
    """One device with its entities; the availability holds for each of them."""

    device: Device
    origin: Origin
    availability_topic: str
    availability_template: str
    components: dict[str, Component]
