"""Home Assistant for tests: its templates, rendered as it renders them, and a real one where there is one."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.mqtt.home_assistant import Discovery
from tests.support.processes import wait_until

CHILD = Path(__file__).parent / "home_assistant_child.py"
# A command for a Python that has `homeassistant` (2024.11 or newer) and `paho-mqtt`; it may be another one
# than ours, which is too old for it.
VARIABLE = "TAMPU_TEST_HOME_ASSISTANT"

# Strict: what Home Assistant would only warn of in its log is an error here.
_jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


def render(template: str, payload: bytes) -> str:
    """A value template over a received payload, which is `value`, and `value_json` if it is JSON."""
    names: dict[str, Any] = {"value": payload.decode()}
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        names["value_json"] = msgspec.json.decode(payload)
    return _jinja.from_string(template).render(names).strip()


def command(template: str, value: str) -> bytes:
    """What a command template sends for a value."""
    return _jinja.from_string(template).render(value=value).strip().encode()


def read(payload: bytes) -> Discovery:
    """A discovery message, back as the struct it was made of."""
    return msgspec.json.decode(payload, type=Discovery)


class HomeAssistant:
    """A real one in a process of its own, connected to the broker at `port`, with these automations; up while
    in its `with` block."""

    def __init__(self, port: int, automations: list[Any] | None = None) -> None:
        self._port = port
        self._automations = automations or []

    def __enter__(self) -> "HomeAssistant":
        self._words = tempfile.TemporaryFile("w+")
        # The child goes as text, since its Python may see another file system.
        self._process = subprocess.Popen(
            [*_python(), "-c", CHILD.read_text(), str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )
        try:
            self._tell(self._automations)
            assert self._hear() == "ready"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """The end of its input is what ends it."""
        try:
            self._process.communicate(timeout=20)
        finally:
            self._process.kill()
            self._words.close()

    def states(self) -> dict[str, Any]:
        """By entity id: its `state` and `attributes`."""
        states: dict[str, Any] = self._ask(do="states")
        return states

    def wait_state(self, entity: str, state: str) -> dict[str, Any]:
        """The attributes of an entity, once it is in this state."""

        def attributes() -> Any:
            found = self.states().get(entity, {})
            return found if found.get("state") == state else None

        found: dict[str, Any] = wait_until(attributes, f"{entity} is {state}; {self.complaints()}")
        return dict(found["attributes"])

    def wait_event(self, entity: str, **fields: Any) -> dict[str, Any]:
        """The attributes of an event entity, once they hold these fields."""

        def attributes() -> Any:
            found = self.states().get(entity, {}).get("attributes", {})
            return found if found.items() >= fields.items() else None

        found: dict[str, Any] = wait_until(attributes, f"{entity} with {fields}; {self.complaints()}")
        return found

    def call(self, domain: str, service: str, entity: str, **data: Any) -> None:
        """Call a service on one entity."""
        self._ask(do="call", domain=domain, service=service, data={"entity_id": entity, **data})

    def spoken(self) -> list[dict[str, Any]]:
        """What `tts.speak` was called with."""
        spoken: list[dict[str, Any]] = self._ask(do="spoken")
        return spoken

    def complaints(self) -> list[str]:
        """What its own parts warned of; not how this bare one was put together."""
        names = ("homeassistant.components.", "homeassistant.helpers.template", "homeassistant.util.")
        lines: list[str] = self._ask(do="complaints")
        return [line for line in lines if line.startswith(names)]

    def _ask(self, **order: Any) -> Any:
        self._tell(order)
        return self._hear()

    def _tell(self, order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"Home Assistant ended: {self._last_words()}"
        return json.loads(line)

    def _last_words(self) -> str:
        self._process.wait(10)
        self._words.seek(0)
        return self._words.read()[-4000:]


def _python() -> list[str]:
    return shlex.split(os.environ.get(VARIABLE, sys.executable))


def has_home_assistant() -> bool:
    """True where the command of TAMPU_TEST_HOME_ASSISTANT, or this Python, can import it."""
    found = subprocess.run([*_python(), "-c", "import homeassistant"], stderr=subprocess.DEVNULL, check=False)
    return found.returncode == 0
