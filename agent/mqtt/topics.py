"""Every topic of the contract in one table; routing and names come from here.

`base` is `<prefix>/<node>`. Clients and ids are names of the wire (config.NAME), so a topic built
here can hold no separator or wildcard that was not written here.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from agent.config import NAME
from agent.errors import BadReplyTopic

MAX_REPLY_BYTES = 256
MAX_REPLY_LEVELS = 32
_NAME = re.compile(NAME)


class Channel(StrEnum):
    """What arrives: the last segment but one of a topic we subscribe to."""

    REQUEST = "request"
    CANCEL = "cancel"


def is_name(text: object) -> bool:
    """True for what may stand in a topic as node, client or id."""
    return isinstance(text, str) and _NAME.match(text) is not None and text not in {".", ".."}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one node. `reply_prefixes` are roots besides a client's own that replies may use."""

    prefix: str
    node: str
    reply_prefixes: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        return f"{self.prefix}/{self.node}"

    @property
    def status(self) -> str:
        return f"{self.base}/status"

    @property
    def info(self) -> str:
        return f"{self.base}/info"

    def filters(self) -> list[str]:
        """What to subscribe to."""
        return [f"{self.base}/{channel}/+" for channel in Channel]

    def route(self, topic: str) -> tuple[Channel, str] | None:
        """Channel and client of an incoming topic; None when it is not one of ours."""
        head, _, client = topic.rpartition("/")
        root, _, channel = head.rpartition("/")
        if root != self.base or channel not in set(Channel) or not is_name(client):
            return None
        return Channel(channel), client

    def response(self, client: str, request_id: str) -> str:
        """The default reply topic."""
        return f"{self.base}/response/{client}/{request_id}"

    def check_reply(self, topic: str, client: str) -> str:
        """The offered reply topic, if this client may have its answer there. Raises BadReplyTopic."""
        if not topic or len(topic.encode("utf-8", "surrogatepass")) > MAX_REPLY_BYTES:
            raise BadReplyTopic(f"the reply topic must have 1 to {MAX_REPLY_BYTES} bytes")
        # Brokers disconnect whoever publishes to a topic they call malformed: be stricter than any.
        if topic.startswith("$") or any(c in "+#" or not c.isprintable() for c in topic):
            raise BadReplyTopic("the reply topic must hold no wildcard, no control character, no leading $")
        if topic.count("/") > MAX_REPLY_LEVELS:
            raise BadReplyTopic(f"the reply topic must have at most {MAX_REPLY_LEVELS} levels")
        allowed = (f"{self.base}/response/{client}", *self.reply_prefixes)
        if not any(topic == root or topic.startswith(f"{root}/") for root in allowed):
            raise BadReplyTopic(f"the reply topic must begin with one of: {', '.join(allowed)}")
        if self.route(topic) or topic in {self.status, self.info}:
            raise BadReplyTopic("the reply topic is one this box uses itself")
        return topic
