"""The published contract: the file is made of the table, and what the box says is what stands in it."""

import hashlib
import json
from typing import Any

import msgspec
import pytest

from agent.errors import BY_CODE
from agent.mqtt import frames, schema
from agent.mqtt.channels import CHANNELS, FRAMES, Way
from agent.mqtt.payloads import RequestPayload, open_envelope, parse_draft
from agent.mqtt.route import Route
from agent.request import Finished, FinishReason, Message, Request, Sampling, Timings, Trimmed, Usage
from tests.support.json_schema import satisfies
from tests.support.quiet_link import QuietLink, json_stream

PUBLISHED: dict[str, Any] = json.loads(schema.FILE.read_text())
REQUEST = Request("c", "r", (Message("user", "x"),), Sampling(seed=7), 256, ttl_s=60.0, session="kitchen")
END = Finished(FinishReason.STOP, Usage(9, 1, 2), Timings(0.25, 1.5, 20.125), Trimmed(3, 1200))


def test_the_file_is_what_the_table_says() -> None:
    """Else: python -m agent.mqtt.schema."""
    assert schema.FILE.read_text() == schema.text()
    assert schema.published_hash() == hashlib.sha256(schema.text().encode()).hexdigest()


def test_every_channel_is_published_and_its_references_lead_somewhere() -> None:
    """By its own name, with way, topic and payload."""
    assert set(PUBLISHED["channels"]) == {channel.name for channel in CHANNELS}
    text = schema.FILE.read_text()
    wanted = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert wanted == set(PUBLISHED["$defs"])


def test_no_two_channels_that_arrive_have_the_same_topic() -> None:
    """Or routing would depend on the order of the table."""
    topics = [channel.topic for channel in CHANNELS if channel.way is Way.IN]
    assert len(set(topics)) == len(topics)


def test_what_the_box_says_is_valid() -> None:
    """Each frame, whole and where it was made to fit."""
    stream = json_stream(QuietLink(), Route("t"))
    small = json_stream(QuietLink(), Route("tampu/v1/box/response/me/r1", max_frame=256))
    payloads = []
    for one in (stream, small):
        one.accept(REQUEST, 3)
        one.say("text")
        errors = [leaf("a sentence", retry_after_ms=5) for leaf in BY_CODE.values()]
        finals = [*one.done(END, "text " * 60), *(final for error in errors for final in one.error(error))]
        payloads += [*one.link.payloads, *(final.payload for final in finals)]
    kinds = {"oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in FRAMES]}
    for payload in payloads:
        frame = json.loads(payload)
        fitting = [one for one in kinds["oneOf"] if satisfies(frame, one, PUBLISHED)]
        assert len(fitting) == 1, frame
    assert {json.loads(payload)["type"] for payload in payloads} >= {
        "accepted",
        "delta",
        "chunk",
        "done",
        "error",
    }


@pytest.mark.parametrize(
    ("payload", "is_valid"),
    [
        ({"prompt": "hello"}, True),
        ({"v": 1, "id": "r-1", "messages": [{"role": "user", "content": "x"}], "max_frame": 256}, True),
        ({"prompt": "x", "id": "a/b"}, False),
        ({"prompt": "x", "reply_qos": 2}, False),
        ({"prompt": 7}, False),
        ({"prompt": "x", "temperature": 3}, False),
    ],
)
def test_the_schema_of_requests_says_what_the_box_takes(payload: dict[str, Any], is_valid: bool) -> None:
    """Yes and no to the same payloads."""
    reference = PUBLISHED["channels"]["request"]["payload"]
    assert satisfies(payload, reference, PUBLISHED) is is_valid
    envelope, error = open_envelope(json.dumps(payload).encode(), is_json=True, max_bytes=9999)
    if error is None:
        try:
            parse_draft(envelope, "me", None)
        except Exception as refusal:  # noqa: BLE001 - that it is one is what is asked
            error = refusal  # type: ignore[assignment]
    assert (error is None) is is_valid


def test_all_fields_of_a_request_are_published() -> None:
    """None is known to the parser alone."""
    properties = PUBLISHED["$defs"]["RequestPayload"]["properties"]
    assert set(properties) == {field.encode_name for field in msgspec.structs.fields(RequestPayload)}


def test_a_frame_without_a_broker_has_a_bound() -> None:
    """The largest there is."""
    assert frames.MAX_BYTES < 65536
