"""The contract as JSON Schema, made of the table of channels: `python -m agent.mqtt.schema` writes it.

The file lies beside this module and comes with the package; `info` carries its hash, so that whoever has
read it once knows whether it still holds.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from agent.mqtt.channels import CHANNELS, Channel
from agent.mqtt.payloads import VERSION

FILE = Path(__file__).with_name("contract.schema.json")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def contract() -> dict[str, Any]:
    """Every channel with its payload's schema, and the definitions they share."""
    kinds = [kind for channel in CHANNELS for kind in _kinds(channel)]
    schemas, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    by_kind = dict(zip(map(id, kinds), schemas, strict=True))
    return {
        "$schema": _DIALECT,
        "title": f"Tampu over MQTT, version {VERSION}",
        "channels": {channel.name: _described(channel, by_kind) for channel in CHANNELS},
        "$defs": dict(sorted(definitions.items())),
    }


def _kinds(channel: Channel) -> tuple[Any, ...]:
    return channel.payload if isinstance(channel.payload, tuple) else (channel.payload,)


def _described(channel: Channel, by_kind: dict[int, Any]) -> dict[str, Any]:
    payloads = [by_kind[id(kind)] for kind in _kinds(channel)]
    return {
        "way": channel.way.value,
        "topic": channel.topic,
        "qos": channel.qos,
        "retain": channel.retain,
        "share": channel.share,
        "purpose": channel.purpose,
        "payload": payloads[0] if len(payloads) == 1 else {"oneOf": payloads},
    }


def text() -> str:
    """The file's content."""
    return json.dumps(contract(), indent=1, ensure_ascii=False) + "\n"


@cache
def published_hash() -> str:
    """The SHA-256 of the file as it came with this release, in hex."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
