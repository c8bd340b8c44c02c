"""Making frames fit: text is cut at whole characters, and fields that only inform are left out."""

from typing import Any

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
    frames.Done: ("timings", "trimmed", "usage", "sha256"),
    frames.ErrorFrame: ("detail", "retry_after_ms"),
}
# A character in JSON has at most so many bytes (\u0001).
_MAX_CHAR_BYTES = 6
# So much of an error's sentence is worth a frame.
_LEAST_WORDS = "x" * 24


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
    """The bytes a payload must be allowed for an answer to get through: the longest frame at its least."""
    common: dict[str, Any] = {"id": request_id, "seq": 10**5, "run": 10, "node": node}
    done = frames.Done(**common, finish_reason="cancelled", chunks=10**5)
    chunk = frames.Chunk(**common, off=10**6, text="")
    error = frames.ErrorFrame(
        **common, code="insufficient_memory", status=503, message=_LEAST_WORDS, retryable=False
    )
    return max(
        len(frames.encode(done)), len(frames.encode(chunk)) + _MAX_CHAR_BYTES, len(frames.encode(error))
    )
