"""What may stand in a topic as node, pool, client or id."""

import hashlib
import re

from agent.config import NAME

_NAME = re.compile(NAME)


def is_name(text: object) -> bool:
    """True for a name of the wire; one that was checked can hold no separator and no wildcard."""
    return isinstance(text, str) and _NAME.match(text) is not None and text not in {".", ".."}


def device_id(node: str) -> str:
    """The node as Home Assistant takes it in topics and ids: `[A-Za-z0-9_-]`, as long as it likes.

    One with dots gets eight digits of its hash as well, or `a.b` and `a_b` would be one device.
    """
    if "." not in node:
        return node
    return f"{node.replace('.', '_')}-{hashlib.sha256(node.encode()).hexdigest()[:8]}"
