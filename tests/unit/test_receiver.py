"""The receiver's rule in the device's client: frames may come twice, late, out of order or not at all."""

import hashlib
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.client import Receiver

DIGEST = hashlib.sha256(b"abcdef").hexdigest()
TEXT = "Keep the vents open; 41 °C is too warm for lettuce 🥬."


def delta(offset: int, text: str, run: int = 1) -> dict[str, Any]:
    return {"type": "delta", "off": offset, "text": text, "run": run}


def deltas(text: str, cuts: list[int]) -> list[dict[str, Any]]:
    places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    frames, offset = [], 0
    for piece in pieces:
        frames.append(delta(offset, piece))
        offset += len(piece.encode())
    return frames


@given(
    cuts=st.lists(st.integers(0, 100), max_size=8),
    lost=st.sets(st.integers(0, 9)),
    twice=st.sets(st.integers(0, 9)),
    snapshot_after=st.integers(0, 9),
)
def test_the_text_is_right_whatever_is_lost_or_doubled(
    cuts: list[int], lost: set[int], twice: set[int], snapshot_after: int
) -> None:
    """Never a wrong prefix on the way, and `done` makes it whole."""
    receiver = Receiver()
    sent = ""
    for number, frame in enumerate(deltas(TEXT, cuts)):
        sent += frame["text"]
        for _ in range(0 if number in lost else 2 if number in twice else 1):
            receiver.take(frame)
            assert TEXT.startswith(receiver.text)
        if number == snapshot_after:
            receiver.take({"type": "snapshot", "off": 0, "text": sent, "run": 1})
            assert receiver.text == sent
    receiver.take({"type": "done", "text": TEXT, "run": 1})
    assert receiver.text == TEXT
    assert receiver.frame is not None


def test_the_pieces_given_out_are_the_text() -> None:
    """What a reader printed piece by piece is the answer, also over a gap."""
    receiver = Receiver()
    frames = [delta(0, "a"), delta(2, "c"), delta(0, "a"), {"type": "done", "text": "abc", "run": 1}]
    assert "".join(receiver.take(frame) for frame in frames) == "abc"


def test_a_higher_run_starts_afresh_and_a_lower_one_is_old_news() -> None:
    """The box ran the request again after a crash."""
    receiver = Receiver()
    receiver.take(delta(0, "old"))
    receiver.take(delta(0, "new", run=2))
    receiver.take(delta(3, "old", run=1))
    assert receiver.text == "new"


def test_chunks_in_any_order_make_the_text_of_done() -> None:
    """`done` without text counts them."""
    receiver = Receiver()
    receiver.take({"type": "chunk", "off": 3, "text": "def", "run": 1})
    receiver.take({"type": "chunk", "off": 0, "text": "abc", "run": 1})
    receiver.take({"type": "done", "chunks": 2, "sha256": DIGEST, "run": 1})
    assert receiver.text == "abcdef"


def test_a_missing_chunk_is_no_end() -> None:
    """The hash tells; asked again, the box repeats them all."""
    receiver = Receiver()
    receiver.take({"type": "chunk", "off": 0, "text": "abc", "run": 1})
    receiver.take({"type": "done", "chunks": 2, "sha256": DIGEST, "run": 1})
    assert receiver.frame is None
    receiver.take({"type": "chunk", "off": 3, "text": "def", "run": 1})
    receiver.take({"type": "done", "chunks": 2, "sha256": DIGEST, "run": 1})
    assert (receiver.frame or {})["text"] == "abcdef"
