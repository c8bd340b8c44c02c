"""A bare Home Assistant: `python home_assistant_child.py PORT`, driven by lines of JSON (home_assistant.py).

Run by the Python Home Assistant is installed in, so it imports nothing of ours. It has the MQTT integration,
`automation`, and a `tts.speak` that remembers what it was to say.
"""

import asyncio
import inspect
import json
import logging
import socket
import sys
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.components.mqtt.config_flow import FlowHandler
from homeassistant.setup import async_setup_component

complaints: list[str] = []
spoken: list[dict[str, Any]] = []


class Complaints(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def emit(self, record: logging.LogRecord) -> None:
        complaints.append(f"{record.name}: {record.getMessage()}")


async def start(folder: str, port: int, automations: list[Any]) -> core.HomeAssistant:
    (Path(folder) / "configuration.yaml").touch()
    hass = core.HomeAssistant(folder)
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    loader.async_setup(hass)
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    hass.services.async_register("tts", "speak", lambda call: spoken.append(dict(call.data)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        web = {"http": {"server_port": probe.getsockname()[1], "server_host": ["127.0.0.1"]}}
    for domain, config in (("homeassistant", {}), ("http", web)):
        assert await async_setup_component(hass, domain, config), domain
    entry = broker_entry(port)
    await hass.config_entries.async_add(entry)
    assert await async_setup_component(hass, "automation", {"automation": automations}), "automation"
    await hass.async_start()
    return hass


def broker_entry(port: int) -> config_entries.ConfigEntry:
    """The MQTT integration, as its dialogue would have set it up in this release."""
    fields = {
        "version": FlowHandler.VERSION,
        "minor_version": FlowHandler.MINOR_VERSION,
        "domain": "mqtt",
        "title": "broker",
        "data": {"broker": "127.0.0.1", "port": port, "protocol": "5", "discovery": True},
        "options": {"discovery": True},
        "source": "user",
        "unique_id": None,
        "discovery_keys": MappingProxyType({}),
        "subentries_data": None,
    }
    known = inspect.signature(config_entries.ConfigEntry.__init__).parameters
    return config_entries.ConfigEntry(**{name: value for name, value in fields.items() if name in known})


async def obey(hass: core.HomeAssistant, order: dict[str, Any]) -> Any:
    match order["do"]:
        case "states":
            return {
                state.entity_id: {"state": state.state, "attributes": dict(state.attributes)}
                for state in hass.states.async_all()
            }
        case "call":
            await hass.services.async_call(order["domain"], order["service"], order["data"], blocking=True)
            return None
        case "complaints":
            return complaints
        case "spoken":
            return spoken
    raise ValueError(order["do"])


async def main() -> None:
    logging.getLogger().addHandler(Complaints(logging.WARNING))
    automations = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        hass = await start(folder, int(sys.argv[1]), automations)
        print(json.dumps("ready"), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await obey(hass, json.loads(line)), default=str), flush=True)
        await hass.async_stop(force=True)


if __name__ == "__main__":
    asyncio.run(main())
