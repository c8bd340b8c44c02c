"""Making frames fit: text is cut at whole characters, and fields that only inform are left out."""

import msgspec
from msgspec import UNSET, Struct

from agent.mqtt import frames

# What a receiver of small frames can do without, the most useful last.
DISPENSABLE: dict[type[Struct], tuple[str, ...]] = {
    frames.Accepted: (
        "top_p",
        "temperature",
        "priority",
        "session",
        "ttl_s",
        "max_tokens",
        "boot_id",
        "queue_pos",
        "seed",
    ),
    frames.Progress: ("prompt_done", "prompt_total", "queue_pos"),
    frames.Done: ("timings", "trimmed", "usage"),
    frames.ErrorFrame: ("detail", "retry_after_ms"),
}
# A character in JSON has at most so many bytes (\u0001).
_MAX_CHAR_BYTES = 6


def encode_within(frame: Struct, max_bytes: int) -> bytes:
    """The JSON of a frame, without as many dispensable fields as it takes; a message is cut at last.

    Longer than `max_bytes` only where nothing is left to leave out (see `smallest_frame`).
    """
    whole = frames.encode(frame)
    for name in DISPENSABLE.get(type(frame), ()):
        if len(whole) <= max_bytes:
            return whole
        frame = msgspec.structs.replace(frame, **{name: UNSET})
        whole = frames.encode(frame)
    if len(whole) > max_bytes and isinstance(frame, frames.ErrorFrame):
        without = len(frames.encode(msgspec.structs.replace(frame, message="")))
        kept = frame.message[: fitting_chars(frame.message, max_bytes - without)]
        whole = frames.encode(msgspec.structs.replace(frame, message=kept))
    return whole


def fitting_chars(text: str, max_bytes: int) -> int:
    """How many characters of `text` have at most so many bytes in a JSON string; at least one, if any."""
    count = min(len(text), max(1, max_bytes))
    while count > 1 and (size := len(msgspec.json.encode(text[:count])) - 2) > max_bytes:
        count = max(1, min(count - 1, count * max_bytes // size))
    return count


def smallest_frame(request_id: str, node: str) -> int:
    """The bytes a payload must be allowed for an answer to get through: `done` with its chunks' hash."""
    done = frames.Done(
        id=request_id,
        seq=10**6,
        run=100,
        node=node,
        finish_reason="cancelled",
        chunks=10**6,
        sha256="0" * 64,
    )
    delta = frames.Chunk(id=request_id, seq=10**6, run=100, node=node, off=10**7, text="")
    return max(len(frames.encode(done)), len(frames.encode(delta)) + _MAX_CHAR_BYTES)
