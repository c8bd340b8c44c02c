"""YAML, the environment and --set words to one `Config`; the only reader of settings.

An unknown key, a wrong type or a value out of bounds is a `ConfigError` that names file, key, value
and what is allowed.
"""

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.config import Config, to_tree
from agent.config_check import check
from agent.errors import ConfigError
from agent.explain import explain, one_line, short
from agent.places import ENV_CONFIG, credential, find_config_file, runtime_folder, state_folder

# The kernel's sun_path has 108 bytes on Linux and 104 on macOS, terminator included.
MAX_SOCKET_PATH_BYTES = 103

ENV_PREFIX = "TAMPU_"
# Read elsewhere (tests, build scripts) or not settings: never taken for overrides.
ENV_RESERVED = {ENV_CONFIG, "TAMPU_PYTHON", "TAMPU_TARGET", "TAMPU_CMAKE_ARGS"}

# Keys of `engine` whose words `on` and `off` YAML reads as true and false.
SWITCHES = ("gpu", "repack")


def load(named: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The configuration of this process, defaults filled in.

    `overrides` are `key.sub=value` words with YAML values; they win over the environment
    (TAMPU_MQTT__HOST=...), which wins over the file. Raises ConfigError.
    """
    path = find_config_file(named)
    where = str(path) if path else "the built-in defaults"
    tree = _read_yaml(path) if path else {}
    sources: dict[str, str] = {}
    for source, key, text in (*_environment_overrides(os.environ), *_given_overrides(overrides)):
        _set(tree, key, _parse_yaml(text, f"{source}: {short(text)}"), source)
        sources[".".join(key)] = source
    return _resolve(_convert(tree, where, sources), where)


def from_tree(tree: Mapping[str, Any], where: str) -> Config:
    """The configuration in an already parsed tree; `where` names it in errors. Raises ConfigError."""
    return _resolve(_convert(dict(tree), where, {}), where)


def check_files(config: Config) -> None:
    """Look at the files a configuration names, as the daemon will. Raises ConfigError for the first
    that cannot be read."""
    tls = config.mqtt.tls
    named = {
        "mqtt.password_file": config.mqtt.password_file,
        "mqtt.tls.ca": tls.ca if tls else None,
        "mqtt.tls.cert": tls.cert if tls else None,
        "mqtt.tls.key": tls.key if tls else None,
        "models.manifest": config.models.manifest,
    }
    for key, path in named.items():
        if path is None:
            continue
        try:
            (credential(path) if key.startswith("mqtt.") else Path(path)).open("rb").close()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"{key}: {path} cannot be read: {why}{_credential_hint(path)}") from error


def read_secret(path: str) -> str:
    """The first line of a secret file. Raises ConfigError that names the file, never its content."""
    try:
        return credential(path).read_text(encoding="utf-8").split("\n", 1)[0]
    except (OSError, ValueError) as error:
        why = error.__class__.__name__
        hint = _credential_hint(path)
        raise ConfigError(f"mqtt.password_file: {path} cannot be read ({why}){hint}") from error


def _credential_hint(path: str) -> str:
    return "" if os.sep in path else "; a bare name is one of the service's credentials, see LoadCredential="


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    tree = _parse_yaml(content, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(tree).__name__}")
    return tree


def _parse_yaml(text: bytes | str, where: str) -> Any:
    import yaml  # here: `tampu ask` without a configuration file must not wait for it

    class Loader(yaml.SafeLoader):
        """Refuses a key that is there twice: YAML would let the second one silently win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} is there twice{_at(key.start_mark)}")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets through what int(), date() and others raise on `!!int x` or 2026-99-99.
        raise ConfigError(f"{where}: not valid YAML: {_yaml_trouble(error)}") from error


def _yaml_trouble(error: Exception) -> str:
    """What it met and where, in one line: without PyYAML's name for a stream and its drawing of the place."""
    parts = [
        f"{text}{_at(getattr(error, f'{part}_mark', None))}"
        for part in ("context", "problem")
        if (text := getattr(error, part, None))
    ]
    return one_line(", ".join(parts) or error)


def _at(mark: Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


def _environment_overrides(environ: Mapping[str, str]) -> list[tuple[str, list[str], str]]:
    found = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in ENV_RESERVED and not name.startswith("TAMPU_TEST_"):
            found.append((f"${name}", name.removeprefix(ENV_PREFIX).lower().split("__"), environ[name]))
    return found


def _given_overrides(words: Iterable[str]) -> list[tuple[str, list[str], str]]:
    found = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word}: must be key=value, for example --set mqtt.host=192.168.1.10")
        found.append(("--set", key.split("."), text))
    return found


def _set(tree: dict[str, Any], key: list[str], value: Any, source: str) -> None:
    for depth, part in enumerate(key[:-1], start=1):
        if tree.get(part) is None:
            tree[part] = {}
        tree = tree[part]
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: {'.'.join(key)}: {'.'.join(key[:depth])} is a value, not a section")
    tree[key[-1]] = value


def _convert(tree: dict[str, Any], where: str, sources: Mapping[str, str]) -> Config:
    # A section whose keys are all commented out reads as null: that is the default, not an error.
    tree = _with_words({key: value for key, value in tree.items() if value is not None})
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        keys, problem = explain(tree, Config, str(error))
        raise ConfigError(f"{_origin(keys, sources) or where}: {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: {short(error.object)} is not allowed; expected {_STORABLE}") from error
    for key, text in _texts(to_tree(config)):
        if not _is_storable(text):
            source = _origin(key.split("."), sources) or where
            raise ConfigError(f"{source}: {key}: {short(text)} is not allowed; expected {_STORABLE}")
    return config


def _with_words(tree: dict[str, Any]) -> dict[str, Any]:
    """With `on` and `off` where YAML has made booleans of them."""
    journal = tree.get("journal")
    if isinstance(journal, dict) and journal.get("mode") is False:
        tree = {**tree, "journal": {**journal, "mode": "off"}}
    engine = tree.get("engine")
    if not isinstance(engine, dict):
        return tree
    words = {key: "on" if engine[key] else "off" for key in SWITCHES if isinstance(engine.get(key), bool)}
    if engine.get("gpu") == 0:  # llama.cpp's own word for none
        words["gpu"] = "off"
    return {**tree, "engine": {**engine, **words}}


def _origin(keys: list[str], sources: Mapping[str, str]) -> str | None:
    """Which override set this key, or a section around it."""
    outwards = (".".join(keys[:end]) for end in range(len(keys), 0, -1))
    return next((sources[key] for key in outwards if key in sources), None)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")


_STORABLE = "text without NUL or half characters"


def _is_storable(text: str) -> bool:
    """False for what neither a path nor JSON can hold."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _resolve(config: Config, where: str) -> Config:
    """Fill in what depends on the machine, and check what needs more than one key."""
    node = config.node or default_node()
    if node in {".", "..", "pool"}:
        raise ConfigError(f"{where}: node: {node!r} is not allowed; it names something else on the wire")
    check(config, where)
    path = config.api.socket or str(runtime_folder() / "tampu.sock")
    api = msgspec.structs.replace(config.api, socket=path)
    if len(os.fsencode(api.socket)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"{where}: api.socket: {api.socket!r} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    tls = config.mqtt.tls
    if tls and bool(tls.cert) != bool(tls.key):
        raise ConfigError(f"{where}: mqtt.tls: cert and key must be given together")
    folder = config.models.folder or str(state_folder() / "models")
    models = msgspec.structs.replace(config.models, folder=folder)
    journal = msgspec.structs.replace(config.journal, folder=config.journal.folder or str(state_folder()))
    return msgspec.structs.replace(config, node=node, api=api, models=models, journal=journal)


def default_node() -> str:
    """Host name and 4 hex of the board's serial number or MAC: fifty boards are called raspberrypi."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:58]
    return f"{host.strip('.') or 'tampu'}-{_board_mark()}"


def _board_mark() -> str:
    cards = sorted(Path("/sys/class/net").glob("[ew]*/address"))
    for source in (Path("/proc/device-tree/serial-number"), *cards):
        try:
            digits = "".join(c for c in source.read_text() if c in "0123456789abcdefABCDEF").lower()
        except OSError:
            continue
        if digits.strip("0"):
            return digits[-4:].rjust(4, "0")
    return "0000"
