"""Frames that fit: whole characters, nothing dispensable where there is no room, never more than asked."""

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ContextOverflow
from agent.mqtt import frames
from agent.mqtt.fit import encode_within, fitting_chars, smallest_frame
from agent.mqtt.route import Route
from agent.request import Finished, FinishReason, Message, Request, Sampling, Timings, Trimmed, Usage
from tests.support.quiet_link import QuietLink, json_stream

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=400)
NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=64).filter(lambda name: name not in {".", ".."})
REQUEST = Request("c", "r", (Message("user", "x"),), Sampling(seed=7), 256, ttl_s=60.0, session="kitchen")
END = Finished(FinishReason.STOP, Usage(900, 100, 200), Timings(0.25, 1.5, 20.125), Trimmed(3, 1200))


@given(TEXTS.filter(bool), st.integers(6, 500))
def test_text_is_cut_where_it_fits(text: str, room: int) -> None:
    """As JSON it has no more bytes than there is room, and there is always progress."""
    count = fitting_chars(text, room)
    assert 1 <= count <= len(text)
    assert len(json.dumps(text[:count], ensure_ascii=False).encode()) - 2 <= max(room, 6) + text.count("\x7f")


def test_a_text_that_fits_is_not_cut() -> None:
    """To the last byte."""
    assert fitting_chars("12345", 5) == 5
    assert fitting_chars("12345", 4) == 4
    assert fitting_chars("ää", 3) == 1


@given(NAMES, NAMES, NAMES, TEXTS, st.integers(0, 600))
def test_every_frame_fits_the_smallest_packet_that_is_allowed(
    node: str, client: str, request_id: str, text: str, more: int
) -> None:
    """Accepted, progress, deltas, chunks, done and error: with the topic they fit `max_frame`."""
    topic = f"tampu/v1/{node}/response/{client}/{request_id}"
    bare = Route(topic, max_frame=64)
    route = Route(topic, max_frame=smallest_frame(request_id, node) + bare.overhead + more)
    stream = json_stream(QuietLink(), route, node, request_id)
    stream.accept(REQUEST, 12)
    said = 0
    while said < len(text):
        said += stream.say(text[said:])
    finals = [*stream.done(END, text), *stream.error(ContextOverflow("too long " * 30, n_prompt=9000))]
    payloads = [*stream.link.payloads, *(final.payload for final in finals)]
    assert all(len(payload) + route.overhead <= (route.max_frame or 0) for payload in payloads)
    chunks = [json.loads(payload) for payload in payloads]
    deltas = [frame for frame in chunks if frame["type"] == "delta"]
    assert "".join(frame["text"] for frame in deltas) == text


def test_what_informs_goes_before_what_is_needed() -> None:
    """A frame that does not fit loses its least useful fields first, and then the message's end."""
    frame = frames.ErrorFrame(
        id="r", seq=1, run=1, node="n", code="busy", status=503, message="m" * 500, retryable=True,
        retry_after_ms=900, detail={"queue": 64},
    )  # fmt: skip
    cut = json.loads(encode_within(frame, 560 + 40))
    assert "detail" not in cut or "retry_after_ms" in cut
    least = json.loads(encode_within(frame, 150))
    assert least["code"] == "busy"
    assert 0 < len(least["message"]) < 500
