"""Every topic of the contract in one table: what arrives is routed by it, what is sent is named by it, and
the published JSON Schema (schema.py) is made of it.

In a template `{base}` is `<prefix>/<node>` and `{home_assistant}` the prefix of its discovery, where that is
switched on; the other braces stand for one name each (names.py).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agent.mqtt import frames
from agent.mqtt.home_assistant import Discovery
from agent.mqtt.info import Info
from agent.mqtt.payloads import CancelPayload, CtlPayload, GetPayload, RequestPayload

FRAMES = (
    frames.Accepted,
    frames.Progress,
    frames.DeltaFrame,
    frames.Snapshot,
    frames.Chunk,
    frames.Done,
    frames.ErrorFrame,
)


class Way(StrEnum):
    """From devices to the box, or back."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Channel:
    """`payload` is the struct, or the structs one of which it is; Any where it depends on a name in the
    topic. `share` is the group that shares an incoming one through the broker."""

    name: str
    way: Way
    topic: str
    payload: Any
    qos: int
    purpose: str
    retain: bool = False
    share: str | None = None


REQUEST = Channel("request", Way.IN, "{base}/request/{client}", RequestPayload, 1, "a prompt")
CANCEL = Channel("cancel", Way.IN, "{base}/cancel/{client}", CancelPayload, 1, "stop one answer, or all")
GET = Channel("get", Way.IN, "{base}/get/{client}", GetPayload, 1, "the state or the result again")
RESPONSE = Channel(
    "response", Way.OUT, "{base}/response/{client}/{id}", FRAMES, 1, "the default reply; deltas as asked for"
)
CTL = Channel("ctl", Way.IN, "{base}/ctl/request/{verb}", CtlPayload, 1, "an operator's question")
CTL_RESPONSE = Channel("ctl_response", Way.OUT, "{base}/ctl/response/{verb}/{id}", Any, 1, "the answer to it")
POOL_REQUEST = Channel(
    "pool_request",
    Way.IN,
    "{prefix}/pool/{pool}/request/{client}",
    RequestPayload,
    1,
    "a prompt for whichever member of the pool the broker deals it to",
    share="{group}",
)
POOL_RESPONSE = Channel(
    "pool_response", Way.OUT, "{prefix}/pool/{pool}/response/{client}/{id}", FRAMES, 1, "its default reply"
)
STATUS = Channel(
    "status", Way.OUT, "{base}/status", frames.StatusPayload, 1, "state, and last will", retain=True
)
INFO = Channel("info", Way.OUT, "{base}/info", Info, 1, "what this box is and can do", retain=True)
HEALTH = Channel("health", Way.OUT, "{base}/health", frames.HealthPayload, 0, "how it is doing", retain=True)
BIRTH = Channel(
    "birth", Way.IN, "{home_assistant}/status", str, 0, "Home Assistant came up: `online`, as bare text"
)
DISCOVERY = Channel(
    "discovery",
    Way.OUT,
    "{home_assistant}/device/{device}/config",
    Discovery,
    1,
    "this box as a device of Home Assistant",
    retain=True,
)

CHANNELS = (
    REQUEST,
    CANCEL,
    GET,
    RESPONSE,
    CTL,
    CTL_RESPONSE,
    POOL_REQUEST,
    POOL_RESPONSE,
    STATUS,
    INFO,
    HEALTH,
    BIRTH,
    DISCOVERY,
)
