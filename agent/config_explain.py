"""Says what is wrong with a configuration: the key as it is written, the value, and what is allowed."""

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from agent.config import NAME, QUANT, SIZE, Config, Profile

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")


def explain(tree: dict[str, Any], text: str) -> tuple[list[str], str]:
    """msgspec's sentence as ours: where it is, the value there, and what is allowed or meant."""
    reason, _, path = text.partition(" - at `")
    keys, value = _follow(tree, path.partition("$")[2])
    name = ".".join(keys) or "the file"
    if path.startswith("key"):
        wrong = next(key for key in value if not (isinstance(key, str) and re.match(NAME, key)))
        return keys, f"{name}: {short(wrong)} is not allowed as a key; expected 1 to 64 of A-Z a-z 0-9 _ . -"
    if "unknown field" in reason:
        unknown, known = reason.split("`")[1], _fields(_kind(keys))
        keys = [*keys, unknown]
        return keys, f"{'.'.join(keys)}: unknown key{_hint(unknown, known)}"
    if "missing required" in reason:
        return keys, f"{name}.{reason.split('`')[1]}: is missing; it has no default"
    if "enum value" in reason:
        return keys, f"{name}: {short(value)} is not allowed; expected {' or '.join(_choices(_kind(keys)))}"
    if repr(SIZE) in reason:
        return keys, f"{name}: {short(value)} is not allowed; expected auto, or a size like 400M or 1.5G"
    if repr(QUANT) in reason:
        return keys, f"{name}: {short(value)} is not allowed; expected auto, or a quant like Q4_K_M"
    rule = one_line(reason).removeprefix("Expected ").replace("`", "").replace("\\Z", "$")
    return keys, f"{name}: {short(value)} is not allowed; expected {rule}"


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


def short(value: object) -> str:
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def one_line(error: object) -> str:
    return " ".join(str(error).split())
