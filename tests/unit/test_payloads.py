"""Payloads: every byte string becomes a request or a named error, and always an envelope to answer on."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.draft import Draft
from agent.errors import BadRequest, RequestError, TooLarge, UnsupportedVersion
from agent.mqtt import payloads
from agent.mqtt.names import is_name

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = [field.name for field in msgspec.structs.fields(payloads.RequestPayload)]


def read(payload: bytes | str | dict[str, Any], *, is_json: bool = False) -> Draft:
    """The draft in a payload; raises what the client would be told."""
    data = json.dumps(payload) if isinstance(payload, dict) else payload
    data = data.encode() if isinstance(data, str) else data
    envelope, error = payloads.open_envelope(data, is_json=is_json, max_bytes=65536)
    if error:
        raise error
    return payloads.parse_draft(envelope, "me", None)[0]


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_request_or_a_named_error(payload: bytes) -> None:
    """Nothing else escapes, and there is a valid id to answer under."""
    envelope, error = payloads.open_envelope(payload, is_json=False, max_bytes=150)
    assert is_name(envelope.id)
    if error is None:
        try:
            payloads.parse_draft(envelope, "me", 5)
        except RequestError as refusal:
            assert refusal.message


@given(st.dictionaries(st.sampled_from([*FIELDS, "id", "v", "reply_to", "reply_qos", "other"]), JSON_VALUES))
def test_any_fields_are_a_draft_or_a_named_error(tree: dict[str, Any]) -> None:
    """Values of any type in any field."""
    try:
        draft = read(tree)
    except RequestError as refusal:
        assert refusal.message
    else:
        assert draft.messages is not None


def test_json_is_told_by_its_first_byte_that_is_not_blank() -> None:
    """`{` must parse; anything else is the prompt, quotes and brackets included."""
    assert read(' \n{"prompt": "x"}').messages[0].content == "x"
    assert read('"a quoted text"').messages[0].content == '"a quoted text"'
    assert read("[1, 2]").messages[0].content == "[1, 2]"
    with pytest.raises(BadRequest, match="begins like JSON"):
        read(" {oh, a set}")


def test_a_declared_json_must_parse() -> None:
    """Content Type application/json makes plain text a mistake."""
    with pytest.raises(BadRequest):
        read("hello", is_json=True)
    with pytest.raises(BadRequest, match="object"):
        read("[1]", is_json=True)


@pytest.mark.parametrize("version", [2, 0, "1", None, True, 1.5])
def test_another_version_is_unsupported(version: object) -> None:
    """Only the number 1 is spoken; the message says so."""
    with pytest.raises(UnsupportedVersion, match="speaks 1"):
        read({"v": version, "prompt": "x"})


def test_too_large_is_said_before_anything_is_parsed() -> None:
    """With both numbers."""
    with pytest.raises(TooLarge, match="65537 bytes; at most 65536"):
        read(b"x" * 65537)


def test_an_error_in_one_field_keeps_the_id_and_the_route() -> None:
    """The client hears of its mistake where it listens."""
    envelope, error = payloads.open_envelope(
        b'{"id":"r1","reply_to":"a/b","reply_qos":7,"prompt":"x"}', is_json=False, max_bytes=1000
    )
    assert (envelope.id, envelope.reply_to) == ("r1", "a/b")
    assert error is not None
    assert error.message == "reply_qos: 7 is not allowed; expected 0 or 1"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "x", "temperature": 3}, "temperature"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": (1 << 32) - 1}, "seed"),
        ({"prompt": "x", "min_p": 1}, "min_p"),
        ({"prompt": "x", "repeat_penalty": 0}, "repeat_penalty"),
        ({"prompt": "x", "presence_penalty": -3}, "presence_penalty"),
        ({"prompt": "x", "frequency_penalty": "x"}, "frequency_penalty"),
        ({"prompt": "x", "schema": "{}"}, "schema"),
        ({"prompt": "x", "schema": True}, "schema"),
        ({"prompt": "x", "stop": [""]}, "stop"),
        ({"prompt": "x", "stop": ["a"] * 9}, "stop"),
        ({"prompt": "x", "ttl_s": 0}, "ttl_s"),
        ({"prompt": "x", "format": "xml"}, "format"),
        ({"prompt": "x", "session": 5}, "session"),
        ({"prompt": "x", "session": "kitchen", "supersede": "yes"}, "supersede"),
        ({"prompt": "x", "priority": 10}, "priority"),
        ({"prompt": "x", "priority": 1.5}, "priority"),
        ({"prompt": "x", "priority": True}, "priority"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "name"),
        ({"prompt": "  "}, "prompt"),
        ({}, "prompt, messages"),
    ],
)
def test_a_wrong_field_is_named(tree: dict[str, Any], words: str) -> None:
    """The sentence holds the field's name."""
    with pytest.raises(BadRequest, match=words):
        read(tree)


def test_a_schema_goes_on_as_its_text() -> None:
    """In the order it was written in, which is that of the answer's properties; with format text as well."""
    draft = read('{"prompt":"x","format":"text","schema":{"properties":{"b":{},"a":{}}},"min_p":0.1}')
    assert (draft.schema, draft.min_p) == ('{"properties":{"b":{},"a":{}}}', 0.1)


def test_unknown_fields_are_ignored() -> None:
    """Tomorrow's clients may say more than today's box knows."""
    assert read({"prompt": "x", "mood": "good"}).messages[0].content == "x"


def test_a_prompt_is_a_turn_of_its_session_and_messages_are_all_of_it() -> None:
    """What the session makes of them is decided by the field they came in."""
    turn = read({"prompt": "x", "session": "kitchen", "supersede": True, "priority": -9})
    assert (turn.session, turn.supersede, turn.priority, turn.replaces_history) == (
        "kitchen",
        True,
        -9,
        False,
    )
    whole = read({"messages": [{"role": "user", "content": "x"}], "session": "kitchen"})
    assert (whole.session, whole.supersede, whole.replaces_history) == ("kitchen", False, True)


def test_message_expiry_and_ttl_both_bound_the_time_to_live() -> None:
    """The shorter of MQTT 5's property and the field."""
    for text, ttl_s in ((b'{"prompt":"x"}', 9.0), (b'{"prompt":"x","ttl_s":2}', 2.0), (b"x", 9.0)):
        envelope, _ = payloads.open_envelope(text, is_json=False, max_bytes=1000)
        assert payloads.parse_draft(envelope, "me", 9.0)[0].ttl_s == ttl_s


@given(st.binary(max_size=100))
def test_any_bytes_are_a_cancel_or_a_named_error(payload: bytes) -> None:
    """Nothing else escapes."""
    try:
        cancel = payloads.parse_cancel(payload, 80)
    except RequestError:
        return
    assert cancel.id is not None or cancel.all


def test_a_misspelt_prompt_is_recognised() -> None:
    """Unknown fields are ignored, so the sentence about the missing one says which may be it."""
    for name, meant in (("promt", "prompt"), ("message", "messages")):
        envelope, _ = payloads.open_envelope(json.dumps({name: "hi"}).encode(), is_json=True, max_bytes=999)
        with pytest.raises(BadRequest, match=f"is '{name}' meant to be {meant}"):
            payloads.parse_draft(envelope, "me", None)
