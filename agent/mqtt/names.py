"""What may stand in a topic as node, pool, client or id."""

import re

from agent.config import NAME

_NAME = re.compile(NAME)


def is_name(text: object) -> bool:
    """True for a name of the wire; one that was checked can hold no separator and no wildcard."""
    return isinstance(text, str) and _NAME.match(text) is not None and text not in {".", ".."}
