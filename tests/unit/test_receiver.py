"""The receiver's rule in the device's client: frames may come twice, late, out of order or not at all."""

import hashlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client import Receiver

DIGEST = hashlib.sha256(b"abcdef").hexdigest()
TEXT = "Keep the vents open; 41 °C is too warm for lettuce 🥬."
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
CUTS = st.lists(st.integers(0, 100), max_size=8)
Frame = dict[str, Any]


def delta(offset: int, text: str, run: int = 1, kind: str = "delta") -> Frame:
    return {"type": kind, "off": offset, "text": text, "run": run}


def done(text: str, run: int = 1) -> Frame:
    return {"type": "done", "text": text, "run": run}


def pieces(text: str, cuts: list[int], run: int = 1, kind: str = "delta") -> list[Frame]:
    """The text as frames, cut at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    frames, offset = [], 0
    for start, end in pairwise(places):
        frames.append(delta(offset, text[start:end], run, kind))
        offset += len(text[start:end].encode())
    return frames


def ending(text: str, cuts: list[int], run: int, *, in_chunks: bool) -> list[Frame]:
    """The terminal frames: the whole text, or chunks and their hash."""
    if not in_chunks:
        return [done(text, run)]
    chunks = pieces(text, cuts, run, "chunk")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return [*chunks, {"type": "done", "chunks": len(chunks), "sha256": digest, "run": run}]


@st.composite
def transmissions(draw: st.DrawFn) -> tuple[str, list[Frame]]:
    """What reaches a device of an answer in one to three runs.

    QoS 0: deltas in order, any of them lost or doubled. QoS 1: snapshots and the end in order, any of them
    doubled. The two are woven together in any way, within a run and across runs.
    """
    text = draw(TEXTS)
    at_most_once: list[Frame] = []
    at_least_once: list[Frame] = []
    num_runs = draw(st.integers(1, 3))
    for run in range(1, num_runs + 1):
        said = text if run == num_runs else draw(TEXTS)
        for frame in pieces(said, draw(CUTS), run):
            at_most_once += [frame] * draw(st.integers(0, 2))
        for end in sorted(draw(st.lists(st.integers(0, len(said)), max_size=3))):
            at_least_once += [delta(0, said[:end], run, "snapshot")] * draw(st.integers(1, 2))
    for frame in ending(text, draw(CUTS), num_runs, in_chunks=draw(st.booleans())):
        at_least_once += [frame] * draw(st.integers(1, 2))
    woven = []
    while at_most_once and at_least_once:
        woven.append((at_most_once if draw(st.booleans()) else at_least_once).pop(0))
    return text, woven + at_most_once + at_least_once


@given(transmissions())
def test_the_text_is_right_whatever_is_lost_doubled_or_overtaken(
    transmission: tuple[str, list[Frame]],
) -> None:
    """In one run or several; what was printed is the answer, or the answer from its last beginning."""
    text, frames = transmission
    receiver = Receiver()
    printed = ""
    for frame in frames:
        num_restarts = receiver.num_restarts
        piece = receiver.take(frame)
        printed = piece if receiver.num_restarts > num_restarts else printed + piece
    assert receiver.frame is not None
    assert receiver.frame["text"] == receiver.text == printed == text


@given(transmissions())
def test_what_is_known_on_the_way_is_the_beginning_of_what_that_run_says(
    transmission: tuple[str, list[Frame]],
) -> None:
    """Never a wrong byte before the end either."""
    text, frames = transmission
    last = max(frame["run"] for frame in frames)
    receiver = Receiver()
    for frame in frames:
        receiver.take(frame)
        if frame["run"] == last:
            assert text.startswith(receiver.text)


STRANGE = st.one_of(st.none(), st.integers(-1, 9), st.floats(), TEXTS, st.just("\ud83e"))
STRANGE_FRAMES = st.fixed_dictionaries(
    {"type": st.sampled_from(["delta", "snapshot", "chunk", "done", "accepted", "error"])},
    optional={"off": STRANGE, "text": STRANGE, "run": STRANGE, "sha256": STRANGE},
)


@given(st.lists(STRANGE_FRAMES))
def test_what_is_no_frame_of_the_contract_does_no_harm(frames: list[Frame]) -> None:
    """Fields that are missing or of another type are ignored, not raised about."""
    receiver = Receiver()
    for frame in frames:
        receiver.take(frame)
    assert isinstance(receiver.text, str)


@given(CUTS, CUTS, st.sets(st.integers(0, 9)))
def test_chunks_that_were_cut_twice_fit_together(first: list[int], second: list[int], lost: set[int]) -> None:
    """Repeated over another connection they have other sizes; together they are the text."""
    receiver = Receiver()
    for number, frame in enumerate(ending(TEXT, first, 1, in_chunks=True)):
        if number not in lost:
            receiver.take(frame)
    for frame in ending(TEXT, second, 1, in_chunks=True):
        receiver.take(frame)
    assert receiver.text == TEXT
    assert receiver.frame is not None


def test_a_lost_delta_is_known_to_be_missing_until_a_snapshot_or_the_end() -> None:
    """So that a device can ask `get` instead of waiting."""
    receiver = Receiver()
    states = []
    for frame in (
        delta(0, "ab"),
        delta(4, "ef"),
        delta(0, "abcdef", kind="snapshot"),
        delta(8, "!"),
        done("abcdef?!!"),
    ):
        receiver.take(frame)
        states.append(receiver.is_missing)
    assert states == [False, True, False, True, False]


def test_a_higher_run_starts_afresh_and_a_lower_one_is_old_news() -> None:
    """The box ran the request again after a crash."""
    receiver = Receiver()
    receiver.take(delta(0, "old"))
    assert receiver.take(delta(0, "new", run=2)) == "new"
    assert receiver.take(delta(3, "old", run=1)) == ""
    assert (receiver.text, receiver.num_restarts) == ("new", 1)


def test_a_second_run_that_says_the_same_is_not_printed_twice() -> None:
    """With the same seed it does; the reader sees a pause."""
    receiver = Receiver()
    given_out = [receiver.take(frame) for frame in (delta(0, "Keep"), delta(4, " the"))]
    given_out += [receiver.take(frame) for frame in (delta(0, "Kee", 2), delta(3, "p the vents", 2))]
    assert "".join(given_out) == receiver.text == "Keep the vents"
    assert receiver.num_restarts == 0


def test_a_box_that_forgot_everything_begins_again_in_its_first_run() -> None:
    """Without a journal there is no second run, but another boot."""
    receiver = Receiver()
    receiver.take({"type": "accepted", "run": 1, "boot_id": "a"})
    receiver.take(delta(0, "old"))
    receiver.take({"type": "accepted", "run": 1, "boot_id": "b"})
    receiver.take(delta(0, "new text"))
    assert receiver.text == "new text"


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_chunks_in_any_order_make_the_text_of_done(order: tuple[int, ...]) -> None:
    """Also when `done` overtakes one."""
    frames: list[Frame] = [
        delta(0, "abc", kind="chunk"),
        delta(3, "def", kind="chunk"),
        {"type": "done", "chunks": 2, "sha256": DIGEST, "run": 1},
    ]
    receiver = Receiver()
    for at in order:
        receiver.take(frames[at])
    assert receiver.text == "abcdef"


def test_a_missing_chunk_is_no_end() -> None:
    """The hash tells; asked again, the box repeats them all."""
    receiver = Receiver()
    receiver.take(delta(0, "abc", kind="chunk"))
    receiver.take({"type": "done", "chunks": 2, "sha256": DIGEST, "run": 1})
    assert receiver.is_missing
    receiver.take(delta(3, "def", kind="chunk"))
    assert (receiver.frame or {})["text"] == "abcdef"


def test_an_error_is_an_end() -> None:
    """With what was said before it."""
    receiver = Receiver()
    receiver.take(delta(0, "ab"))
    receiver.take({"type": "error", "code": "internal", "run": 1})
    assert receiver.take(delta(2, "c")) == ""
    assert (receiver.frame or {})["code"] == "internal"


def test_without_a_digest_the_number_of_chunks_has_to_do() -> None:
    """Frames for small devices have no room for it."""
    receiver = Receiver()
    for frame in pieces("abcdef", [2, 4], kind="chunk")[:-1]:
        receiver.take(frame)
    receiver.take({"type": "done", "chunks": 3, "run": 1})
    assert receiver.frame is None
    receiver.take(pieces("abcdef", [2, 4], kind="chunk")[-1])
    assert receiver.frame is not None
    assert receiver.text == "abcdef"
