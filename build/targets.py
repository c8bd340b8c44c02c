"""The recipes of targets.yaml, one for each kind of processor that llama.cpp can be compiled for.

They are needed before the venv exists, hence before there is a YAML library. The file keeps to a subset that
the reader below knows: it raises at anything else, and the unit tests hold it against pyyaml.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from steps import Trouble

FILE = Path(__file__).resolve().parent / "targets.yaml"
DEFAULT = "cpu"

# What YAML reads as itself: a word or an option first, and nothing that begins a value or a comment.
_PLAIN = re.compile(r"-{0,2}[A-Za-z](?!.*(: | #|:$))")
_NO_TEXTS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


@dataclass(frozen=True, slots=True)
class Target:
    """What the keys mean is said at the head of targets.yaml."""

    name: str
    about: str = ""
    flags: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    tools_come_with: str = ""
    build_packages: tuple[str, ...] = ()
    run_packages: tuple[str, ...] = ()
    headers: str = ""
    not_yet: str = ""
    notes: tuple[str, ...] = ()

    def flags_with(self, more: str) -> str:
        """All flags in one line, as a shell would split it; CMake lets the last one win."""
        return f"{shlex.join(self.flags)} {more}".strip()


def chosen(environ: Mapping[str, str] = os.environ) -> Target:
    """The target TAMPU_TARGET names. Raises Trouble."""
    return named(environ.get("TAMPU_TARGET") or DEFAULT)


def named(name: str) -> Target:
    """Raises Trouble with the names there are, or with why this one cannot be had."""
    targets = read(FILE.read_text())
    if name not in targets:
        raise Trouble(f"there is no target {name}: set TAMPU_TARGET to one of {', '.join(targets)}")
    if targets[name].not_yet:
        raise Trouble(f"the target {name} cannot be built, {targets[name].not_yet}: unset TAMPU_TARGET")
    return targets[name]


def read(text: str) -> dict[str, Target]:
    """All targets by name. Raises ValueError at a line that is not of our subset."""
    return {name: _target(name, values) for name, values in _tree(text).items()}


def _target(name: str, values: dict[str, str | list[str]]) -> Target:
    kinds = {field.name: tuple if field.default == () else str for field in fields(Target)}
    for key, value in values.items():
        if key == "name" or key not in kinds or isinstance(value, str) != (kinds[key] is str):
            raise ValueError(f"targets.yaml: {name}.{key} is unknown, or not of its kind")
    return Target(name, **{key: kinds[key](value) for key, value in values.items()})


def _tree(text: str) -> dict[str, dict[str, str | list[str]]]:
    """`name:`, indented by two `key: text` or `key:`, and by four `- text`; comments are whole lines."""
    tree: dict[str, dict[str, str | list[str]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip(" "))
        key, _, value = content.partition(":")
        if indent == 0 and content.endswith(":"):
            values = tree[_new(key, tree, number)] = {}
        elif indent == 2 and tree:
            lines: list[str] = []
            values[_new(key, values, number)] = _text(value.strip(), number) if value else lines
        elif indent == 4 and tree and content.startswith("- ") and values and lines is values[[*values][-1]]:
            lines.append(_text(content[2:].strip(), number))
        else:
            raise ValueError(f"targets.yaml: line {number} is not of the subset that is read here")
    return tree


def _new(key: str, known: Mapping[str, object], number: int) -> str:
    if not key.replace("_", "").replace("-", "").isalnum() or not key[0].isalpha() or key in known:
        raise ValueError(f"targets.yaml: line {number}: {key} is no name, or there twice")
    return key


def _text(value: str, number: int) -> str:
    if not _PLAIN.match(value) or value.lower() in _NO_TEXTS:
        raise ValueError(f"targets.yaml: line {number}: this is more than a plain text")
    return value
