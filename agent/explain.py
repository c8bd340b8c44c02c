"""Says what is wrong with values that were to become a struct: the field as it is written, its value, and
what is allowed. For configurations and for what devices send.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from agent.config import CLIENT, NAME, QUANT, SIZE

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")
NAME_WORDS = "1 to 64 of A-Z a-z 0-9 _ . -"
# What a pattern allows, in words.
_PATTERNS = {
    NAME: NAME_WORDS,
    CLIENT: f"{NAME_WORDS}, or * for all others",
    SIZE: "auto, or a size like 400M or 1.5G",
    QUANT: "auto, or a quant like Q4_K_M",
}


def explain(
    tree: dict[str, Any], kind: type[Struct], text: str, private: frozenset[str] = frozenset()
) -> tuple[list[str], str]:
    """msgspec's sentence as ours: where it is, and the sentence with the value there and what is allowed.

    `kind` is what the tree was to become. Of what stands in the top-level fields `private` only the size
    is said: people's own words belong in no log.
    """
    reason, path = _split(tree, kind, text)
    keys, value, kind_here = _follow(tree, kind, path.partition("$")[2])
    name = ".".join(keys) or "the file"
    if path.startswith("key"):
        names = _key_kind(kind_here)
        wrong = next(key for key in value if not _fits(key, names))
        return keys, f"{name}: {short(wrong)} is not allowed as a key; expected {_words_for(names)}"
    if "unknown field" in reason:
        known = _fields(kind_here)
        unknown = next(key for key in value if key not in known)
        keys = [*keys, unknown if _fits(unknown, _NAME) else short(unknown)]
        return keys, f"{'.'.join(keys)}: unknown key{_hint(unknown, known)}"
    if "missing required" in reason:
        return keys, f"{name}.{reason.split('`')[1]}: is missing; it has no default"
    is_private = bool(keys) and keys[0].partition("[")[0] in private and "enum value" not in reason
    said = _sized(value) if is_private else short(value)
    return keys, f"{name}: {said} is not allowed; expected {_rule(reason, kind_here)}"


def _split(tree: dict[str, Any], kind: type[Struct], text: str) -> tuple[str, str]:
    """What is wrong, and where. At the root msgspec says no place; a key may be made to look like one."""
    is_strict = kind.__struct_config__.forbid_unknown_fields
    if is_strict and any(text == f"Object contains unknown field `{key}`" for key in tree):
        return text, ""
    reason, _, path = text.rpartition(" - at `")
    return (reason, path) if reason else (text, "")


def _rule(reason: str, kind: Any) -> str:
    if "enum value" in reason:
        return " or ".join(_choices(kind))
    for pattern, words in _PATTERNS.items():
        if repr(pattern) in reason:
            return words
    plain = one_line(reason).removeprefix("Expected ").replace("`", "").replace(" | null", "")
    return plain.replace("\\Z", "$")


def _follow(tree: Any, kind: Any, path: str) -> tuple[list[str], Any, Any]:
    """The keys, the value and the annotation msgspec's path leads to; its `[...]` stands for the first
    wrong value of a mapping."""
    keys: list[str] = []
    for step in _STEP.finditer(path):
        name, index = step.groups()
        if index:
            keys[-1] += f"[{index}]"
            tree, kind = list(tree)[int(index)], _inner(kind, (list, tuple), 0)
            continue
        kind = _fields(kind)[name] if name else _inner(kind, (dict,), 1)
        key = name or next(key for key in tree if not _fits(tree[key], kind))
        keys.append(key)
        tree = tree[key]
    return keys, tree, kind


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def _parts(kind: Any) -> Iterator[Any]:
    """The types in an annotation: those of a union, without what bounds them."""
    if get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _parts(part)
    elif get_origin(kind) is Annotated:
        yield from _parts(get_args(kind)[0])
    else:
        yield kind


def _inner(kind: Any, origins: tuple[type, ...], place: int) -> Any:
    """The annotation inside a list, a tuple or a mapping."""
    return next(get_args(part)[place] for part in _parts(kind) if get_origin(part) in origins)


def _fields(kind: Any) -> dict[str, Any]:
    section = next(part for part in _parts(kind) if isinstance(part, type) and issubclass(part, Struct))
    return {field.name: field.type for field in msgspec.structs.fields(section)}


_NAME = Annotated[str, msgspec.Meta(pattern=NAME)]


def _key_kind(kind: Any) -> Any:
    """What the keys must be: names, those of a section as well."""
    mappings = [part for part in _parts(kind) if get_origin(part) is dict]
    return get_args(mappings[0])[0] if mappings else _NAME


def _words_for(names: Any) -> str:
    patterns = [getattr(part, "pattern", None) for part in get_args(names)]
    return next((_PATTERNS[pattern] for pattern in patterns if pattern in _PATTERNS), NAME_WORDS)


def _choices(kind: Any) -> list[str]:
    """The words of a Literal, and `a number` where one may stand instead."""
    words: list[str] = []
    for part in _parts(kind):
        words += map(str, get_args(part)) if get_origin(part) is Literal else ["a number"]
    return list(dict.fromkeys(words))


def _hint(unknown: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(unknown[:64], known, n=1) if isinstance(unknown, str) else []
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {', '.join(known)}"


def _sized(value: object) -> str:
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return f"this {type(value).__name__}" if isinstance(value, dict | list) else short(value)


def short(value: object) -> str:
    """A value for a sentence: its beginning and end, on one line, without control characters."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write out numbers of more than 4300 digits
        return f"this {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def one_line(error: object) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split())
