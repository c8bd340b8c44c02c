"""The announcement by Home Assistant's own schemas and templates; runs where that is installed."""

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import Config
from agent.mqtt.discovery import discovery_message
from agent.mqtt.topics import Topics

schemas = pytest.importorskip("homeassistant.components.mqtt.schemas", reason="no Home Assistant here")

TOPICS = Topics("tampu/v1", "green.house", home_assistant="homeassistant")
TREE: dict[str, Any] = msgspec.json.decode(discovery_message(TOPICS, Config(node="green.house"), "1.2.3"))


def keys(tree: dict[str, Any]) -> Iterator[str]:
    """Every key of a tree, with those above it."""
    for name, value in tree.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in keys(value))


def validate(schema: Any, tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tree as the schema takes it; templates are compiled, for which a Home Assistant has to be there."""

    async def inside() -> dict[str, Any]:
        core = importlib.import_module("homeassistant.core")
        hass = core.HomeAssistant(str(folder))
        try:
            return dict(schema(tree))
        finally:
            await hass.async_stop(force=True)

    return asyncio.run(inside())


def test_the_message_passes_the_schema_of_device_discovery(tmp_path: Path) -> None:
    """And the pattern of topics it takes such messages from."""
    discovery = importlib.import_module("homeassistant.components.mqtt.discovery")
    validate(schemas.DEVICE_DISCOVERY_SCHEMA, TREE, tmp_path)
    match = discovery.TOPIC_MATCHER.fullmatch((TOPICS.discovery or "").removeprefix("homeassistant/"))
    assert match is not None
    assert match.group("component") == "device"


@pytest.mark.parametrize("key", TREE["components"])
def test_every_entity_passes_the_schema_of_its_platform(key: str, tmp_path: Path) -> None:
    """With nothing left out: a key that is not known there would be dropped without a word."""
    entity = {**TREE["components"][key], "device": TREE["device"], "origin": TREE["origin"]}
    entity |= {name: TREE[name] for name in ("availability_topic", "availability_template")}
    platform = importlib.import_module(f"homeassistant.components.mqtt.{entity.pop('platform')}")
    taken = validate(platform.DISCOVERY_SCHEMA, entity, tmp_path)
    assert set(keys(entity)) <= set(keys(taken))
