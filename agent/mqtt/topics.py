"""The topics of one node, filled in from the table of channels, and where replies may go.

Clients, ids, pools and verbs are names of the wire (names.py), so a topic built here can hold no
separator or wildcard that was not written there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.errors import BadReplyTopic
from agent.mqtt.channels import (
    CHANNELS,
    CTL_RESPONSE,
    DISCOVERY,
    HEALTH,
    INFO,
    POOL_RESPONSE,
    RESPONSE,
    STATUS,
    Channel,
    Way,
)
from agent.mqtt.names import device_id, is_name

MAX_REPLY_BYTES = 256
MAX_REPLY_LEVELS = 32
HOME_ASSISTANT = "{home_assistant}"
# What text_stream.py ends a reply topic with.
SUFFIXES = ("/done", "/error")
_IN = tuple(channel for channel in CHANNELS if channel.way is Way.IN)


@dataclass(frozen=True, slots=True)
class Routed:
    """An incoming topic, understood; `names` are those in the template's braces."""

    channel: Channel
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Topics:
    """`reply_prefixes` are roots besides a client's own that replies may use; `home_assistant` is the prefix
    of its discovery, None where that is switched off."""

    prefix: str
    node: str
    reply_prefixes: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    home_assistant: str | None = None
    pool_group: str = "tampu"

    @property
    def base(self) -> str:
        return f"{self.prefix}/{self.node}"

    @property
    def status(self) -> str:
        return self._fill(STATUS)

    @property
    def info(self) -> str:
        return self._fill(INFO)

    @property
    def health(self) -> str:
        return self._fill(HEALTH)

    @property
    def discovery(self) -> str | None:
        """Where Home Assistant learns of this box; None where that is switched off."""
        return None if self.home_assistant is None else self._fill(DISCOVERY, device=device_id(self.node))

    def filters(self) -> list[str]:
        """What to subscribe to for this node."""
        return [self._fill(channel, client="+", verb="+") for channel in self._heard() if not channel.share]

    def pool_filters(self) -> list[str]:
        """What to subscribe to for the pools: the broker deals each message to one member."""
        return [
            f"$share/{self.pool_group}/{self._fill(channel, pool=pool, client='+')}"
            for channel in _IN
            if channel.share is not None
            for pool in self.pools
        ]

    def route(self, topic: str) -> Routed | None:
        """What an incoming topic means; None when it is not one of ours."""
        for channel in self._heard():
            names = _match(self._fill(channel, keep=True), topic)
            if names is not None and names.get("pool", "") in ("", *self.pools):
                return Routed(channel, names)
        return None

    def response(self, client: str, request_id: str, pool: str | None = None) -> str:
        """The default reply topic."""
        channel = RESPONSE if pool is None else POOL_RESPONSE
        return self._fill(channel, client=client, id=request_id, pool=pool or "")

    def of(self, channel: Channel, client: str) -> str:
        """Where a client sends what this channel takes."""
        return self._fill(channel, client=client)

    def ctl_response(self, verb: str, request_id: str) -> str:
        """Where an operator's answer goes."""
        return self._fill(CTL_RESPONSE, verb=verb, id=request_id)

    def check_reply(self, topic: str, client: str, pool: str | None = None) -> str:
        """The offered reply topic, if this client may have its answer there. Raises BadReplyTopic."""
        if not topic or len(topic.encode("utf-8", "surrogatepass")) > MAX_REPLY_BYTES:
            raise BadReplyTopic(f"the reply topic must have 1 to {MAX_REPLY_BYTES} bytes")
        # Brokers disconnect whoever publishes to a topic they call malformed: be stricter than any.
        if topic.startswith("$") or any(c in "+#" or not c.isprintable() for c in topic):
            raise BadReplyTopic("the reply topic must hold no wildcard, no control character, no leading $")
        if topic.count("/") > MAX_REPLY_LEVELS:
            raise BadReplyTopic(f"the reply topic must have at most {MAX_REPLY_LEVELS} levels")
        own = self.response(client, "", pool).rstrip("/")
        allowed = (own, *self.reply_prefixes)
        if not any(topic == root or topic.startswith(f"{root}/") for root in allowed):
            raise BadReplyTopic(f"the reply topic must begin with one of: {', '.join(allowed)}")
        if any(self._is_of_boxes(one) for one in (topic, *(topic + suffix for suffix in SUFFIXES))):
            raise BadReplyTopic("the reply topic is one that a box uses itself")
        return topic

    def _is_of_boxes(self, topic: str) -> bool:
        """True where this box or another one would take an answer for a request, or speaks of itself."""
        others = (channel for channel in CHANNELS if channel not in (RESPONSE, POOL_RESPONSE))
        templates = (channel.topic.replace("{base}", "{prefix}/{node}") for channel in self._wanted(others))
        return any(_match(self._root(one), topic) is not None for one in templates)

    def _heard(self) -> Iterator[Channel]:
        """The incoming channels."""
        return self._wanted(_IN)

    def _wanted(self, channels: Iterable[Channel]) -> Iterator[Channel]:
        """Less those of a Home Assistant that is not wanted."""
        return (one for one in channels if self.home_assistant is not None or HOME_ASSISTANT not in one.topic)

    def _root(self, template: str) -> str:
        """The template with the configured prefixes in place."""
        head = template.replace("{base}", self.base).replace("{prefix}", self.prefix)
        return head.replace(HOME_ASSISTANT, self.home_assistant or "")

    def _fill(self, channel: Channel, *, keep: bool = False, **names: str) -> str:
        """The template with prefix and node in place, and the names, or with `keep` the braces."""
        head = self._root(channel.topic)
        return head if keep else head.format(**names)


def _match(template: str, topic: str) -> dict[str, str] | None:
    """The names in a topic that fits the template."""
    wanted, given = template.split("/"), topic.split("/")
    if len(wanted) != len(given):
        return None
    names = {}
    for pattern, part in zip(wanted, given, strict=True):
        if pattern.startswith("{"):
            if not is_name(part):
                return None
            names[pattern[1:-1]] = part
        elif pattern != part:
            return None
    return names
