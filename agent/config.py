"""Every knob on one page: YAML and environment -> one frozen `Config`.

The only module that reads the environment and the configuration file. Every key has a default;
an unknown key, a wrong type or a value out of bounds is a `ConfigError` that names file, key,
value and what is allowed. Lengths in bytes say so; times are in seconds.
"""

import difflib
import os
import re
import reprlib
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from agent.errors import ConfigError

NAME = r"^[A-Za-z0-9_.-]{1,64}\Z"
"""Nodes, clients and ids on the wire; `.` and `..` are refused besides."""

Port = Annotated[int, Meta(ge=1, le=65535)]
TopicPrefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z", max_length=128)]
# The kernel's sun_path has 108 bytes on Linux and 104 on macOS, terminator included.
MAX_SOCKET_PATH_BYTES = 103

ENV_PREFIX = "TAMPU_"
ENV_CONFIG = "TAMPU_CONFIG"
# Read elsewhere (tests, build scripts) or not settings: never taken for overrides.
ENV_RESERVED = {ENV_CONFIG, "TAMPU_PYTHON", "TAMPU_CMAKE_ARGS"}


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Tls(_Section, frozen=True):
    """Paths of PEM files. `ca` alone checks the broker; `cert` and `key` also name us to it."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Mqtt(_Section, frozen=True):
    host: Annotated[str, Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Port = 1883
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    prefix: TopicPrefix = "tampu/v1"
    username: str | None = None
    password_file: str | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    reply_prefixes: tuple[TopicPrefix, ...] = ()


class Api(_Section, frozen=True):
    socket: str = ""
    group: str | None = None


class Models(_Section, frozen=True):
    folder: str = ""
    manifest: str | None = None
    name: Annotated[str, Meta(min_length=1)] = "auto"


class Engine(_Section, frozen=True):
    n_ctx: Annotated[int, Meta(ge=256, le=1 << 20)] | Literal["auto"] = "auto"
    slots: Annotated[int, Meta(ge=1, le=64)] | Literal["auto"] = "auto"
    kv_type: Literal["auto", "f16", "q8_0", "q4_0"] = "auto"
    threads: Annotated[int, Meta(ge=1, le=256)] | Literal["auto"] = "auto"


class Profile(_Section, frozen=True):
    """A named system prompt."""

    system: Annotated[str, Meta(min_length=1, max_length=32768)]


class Limits(_Section, frozen=True):
    """`queue` and `per_client` count requests that have not ended yet, running ones included."""

    queue: Annotated[int, Meta(ge=1, le=4096)] = 64
    per_client: Annotated[int, Meta(ge=1, le=4096)] = 8
    request_bytes: Annotated[int, Meta(ge=256, le=4 << 20)] = 65536
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024
    ttl_s: Annotated[float, Meta(gt=0, le=86400)] = 3600.0


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: bool = False


class Config(_Section, frozen=True):
    node: Annotated[str, Meta(pattern=NAME)] = ""
    mqtt: Mqtt = Mqtt()
    api: Api = Api()
    models: Models = Models()
    engine: Engine = Engine()
    profiles: dict[Annotated[str, Meta(pattern=NAME)], Profile] = {}
    limits: Limits = Limits()
    log: Log = Log()


# ---- where things lie ----------------------------------------------------------------------------


def is_system_service() -> bool:
    """True for root and for the system user: /run and /var/lib instead of the XDG folders."""
    return os.geteuid() == 0 or "RUNTIME_DIRECTORY" in os.environ


def runtime_folder() -> Path:
    """Where the socket lies: given by systemd, else /run/tampu for root, else the user's own."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/run/tampu")
    fallback = os.environ.get("TMPDIR", "/tmp") + f"/tampu-{os.geteuid()}"  # noqa: S108 - a private folder, made 0700
    return Path(os.environ.get("XDG_RUNTIME_DIR", fallback)) / "tampu"


def state_folder() -> Path:
    """Where models lie by default."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/tampu")
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / "tampu"
    return Path(os.environ.get("XDG_STATE_HOME", str(_home() / ".local" / "state"))) / "tampu"


def cache_folder() -> Path:
    """Where fetched packages are kept between runs; may be emptied at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME", str(_home() / ".cache"))) / "tampu"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user id without a name, as containers have: the system users' word for "none"
        return Path("/nonexistent")


def config_candidates() -> tuple[Path, ...]:
    """The files looked for when none is named, first match wins."""
    user = Path(os.environ.get("XDG_CONFIG_HOME", str(_home() / ".config")))
    return (user / "tampu" / "tampu.yaml", Path("/etc/tampu/tampu.yaml"))


def find_config_file(named: str | None) -> Path | None:
    """The file to read: --config, then $TAMPU_CONFIG, then the usual places, else none.

    Raises ConfigError when a file that was named does not exist.
    """
    named = named or os.environ.get(ENV_CONFIG)
    if named:
        path = Path(named)
        if not _is_file(path):
            raise ConfigError(f"{path}: no such configuration file; name an existing one with --config FILE")
        return path
    return next((path for path in config_candidates() if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a folder this user may not look into holds no file for this user
        return False


# ---- reading -------------------------------------------------------------------------------------


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
        _set(tree, key, _parse_yaml(text, f"{source}: {_short(text)}"), source)
        sources[".".join(key)] = source
    return _resolve(_convert(tree, where, sources), where)


def from_tree(tree: Mapping[str, Any], where: str) -> Config:
    """The configuration in an already parsed tree; `where` names it in errors. Raises ConfigError."""
    return _resolve(_convert(dict(tree), where, {}), where)


def read_secret(path: str) -> str:
    """The first line of a secret file. Raises ConfigError that names the file, never its content."""
    try:
        return Path(path).read_text(encoding="utf-8").split("\n", 1)[0]
    except (OSError, ValueError) as error:
        why = error.__class__.__name__
        raise ConfigError(f"mqtt.password_file: {path} cannot be read ({why})") from error


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

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets through what int(), date() and others raise on `!!int x` or 2026-99-99.
        raise ConfigError(f"{where}: not valid YAML: {_one_line(error)}") from error


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
    tree = {key: value for key, value in tree.items() if value is not None}
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        keys, problem = _explain(tree, str(error))
        raise ConfigError(f"{_origin(keys, sources) or where}: {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: {_short(error.object)} is not allowed; expected {_STORABLE}") from error
    for key, text in _texts(to_tree(config)):
        if not _is_storable(text):
            source = _origin(key.split("."), sources) or where
            raise ConfigError(f"{source}: {key}: {_short(text)} is not allowed; expected {_STORABLE}")
    return config


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


# ---- explaining ----------------------------------------------------------------------------------

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")


def _explain(tree: dict[str, Any], text: str) -> tuple[list[str], str]:
    """msgspec's sentence as ours: where it is, the value there, and what is allowed or meant."""
    reason, _, path = text.partition(" - at `")
    keys, value = _follow(tree, path.partition("$")[2])
    name = ".".join(keys) or "the file"
    if path.startswith("key"):
        wrong = next(key for key in value if not (isinstance(key, str) and re.match(NAME, key)))
        return keys, f"{name}: {_short(wrong)} is not allowed as a key; expected 1 to 64 of A-Z a-z 0-9 _ . -"
    if "unknown field" in reason:
        unknown, known = reason.split("`")[1], _fields(_kind(keys))
        keys = [*keys, unknown]
        return keys, f"{'.'.join(keys)}: unknown key{_hint(unknown, known)}"
    if "missing required" in reason:
        return keys, f"{name}.{reason.split('`')[1]}: is missing; it has no default"
    if "enum value" in reason:
        return keys, f"{name}: {_short(value)} is not allowed; expected {' or '.join(_choices(_kind(keys)))}"
    rule = _one_line(reason).removeprefix("Expected ").replace("`", "").replace("\\Z", "$")
    return keys, f"{name}: {_short(value)} is not allowed; expected {rule}"


def _follow(tree: Any, path: str) -> tuple[list[str], Any]:
    """The keys and the value msgspec's path leads to; its `[...]` stands for the first wrong profile."""
    keys: list[str] = []
    for step in _STEP.finditer(path):
        name, index = step.groups()
        if index:
            keys[-1] += f"[{index}]"
            tree = list(tree)[int(index)]
            continue
        key = name or next(key for key in tree if not _is_profile(tree[key]))
        keys.append(key)
        tree = tree[key]
    return keys, tree


def _is_profile(value: Any) -> bool:
    try:
        msgspec.convert(value, Profile)
    except msgspec.ValidationError:
        return False
    return True


def _kind(keys: list[str]) -> Any:
    """The annotated type at a key."""
    kind: Any = Config
    for key in keys:
        kind = Profile if get_origin(kind) is dict else _fields(kind)[key.partition("[")[0]]
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    parts = (kind, *get_args(kind))
    section = next(part for part in parts if isinstance(part, type) and issubclass(part, Struct))
    return {field.name: field.type for field in msgspec.structs.fields(section)}


def _choices(kind: Any) -> list[str]:
    """The words of a Literal, and `a number` where one may stand instead."""
    if get_origin(kind) is Union:
        return [word for part in get_args(kind) for word in _choices(part)]
    return list(get_args(kind)) if get_origin(kind) is Literal else ["a number"]


def _hint(unknown: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(unknown, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {', '.join(known)}"


def _short(value: object) -> str:
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


# ---- filling in ----------------------------------------------------------------------------------


def _resolve(config: Config, where: str) -> Config:
    """Fill in what depends on the machine, and check what needs more than one key."""
    node = config.node or default_node()
    if node in {".", "..", "pool"}:
        raise ConfigError(f"{where}: node: {node!r} is not allowed; it names something else on the wire")
    path = config.api.socket or str(runtime_folder() / "tampu.sock")
    api = msgspec.structs.replace(config.api, socket=path)
    if len(os.fsencode(api.socket)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"{where}: api.socket: {api.socket!r} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    tls = config.mqtt.tls
    if tls and bool(tls.cert) != bool(tls.key):
        raise ConfigError(f"{where}: mqtt.tls: cert and key must be given together")
    folder = config.models.folder or str(state_folder() / "models")
    models = msgspec.structs.replace(config.models, folder=folder)
    return msgspec.structs.replace(config, node=node, api=api, models=models)


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


def to_tree(config: Config) -> dict[str, Any]:
    """Plain values, as `tampu config show` prints them. Holds no secret: passwords live in files."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
