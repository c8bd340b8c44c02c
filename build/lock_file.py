"""Reads pip's lock files: blocks of one requirement each, its hashes on indented lines below it."""

from __future__ import annotations

import re
from collections.abc import Iterator


def requirement(lock: str, name: str) -> str:
    """The block of one package. Raises KeyError when the lock does not have it."""
    for block in _blocks(lock):
        if _name(block) == name:
            return block
    raise KeyError(name)


def without(lock: str, name: str) -> str:
    """The lock with one package left out."""
    return "".join(block for block in _blocks(lock) if _name(block) != name)


def pinned_version(block: str) -> str:
    """`1.2` of a block that begins `name==1.2`."""
    return block.split("==")[1].split()[0]


def _blocks(lock: str) -> Iterator[str]:
    for block in re.split(r"^(?=\S)", lock, flags=re.MULTILINE):
        if block.strip() and not block.startswith("#"):
            yield block


def _name(block: str) -> str:
    return re.split(r"[=\[ ]", block, maxsplit=1)[0]
