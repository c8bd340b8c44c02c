"""Whatever a device sends: a request within the limits, or a named error that fits into a frame."""

import contextlib
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.config import ClientRules, Limits, Profile
from agent.draft import to_request
from agent.engine.messages import Submit
from agent.errors import BadReplyTopic, BadRequest, Expired, RequestError
from agent.mqtt import frames, payloads
from agent.mqtt.names import is_name
from agent.mqtt.topics import MAX_REPLY_BYTES, Topics
from tests.support import hostile

MAX_BYTES = 65536
PROFILES = {"greenhouse": Profile(system="You know plants.")}
RULES = (ClientRules(), ClientRules(profiles=("greenhouse",), own_system=False, sessions=0, max_tokens=1))
TOPICS = Topics("tampu/v1", "box", reply_prefixes=("bridge/replies",), pools=("lab",))
# Surrogates too: paho hands over what a broker let through.
ANY_TEXT = st.text(st.characters(), max_size=300)
TOPIC_PARTS = st.sampled_from(
    [
        *("tampu", "v1", "box", "pool", "lab", "request", "cancel", "get", "response", "ctl", "info", "me"),
        *("..", ".", "", "+", "#", "$share", "a\0", "\ud800", "\uffff", "me\n", "x" * 65, "{client}", "*"),
        *("bridge", "replies"),
    ]
)
ANY_TOPIC = ANY_TEXT | st.lists(TOPIC_PARTS, max_size=40).map("/".join)


@contextlib.contextmanager
def only_named_errors() -> Iterator[None]:
    """Lets RequestErrors through that can be told: one short line, in a frame that can be read again."""
    try:
        yield
    except RequestError as error:
        tell(error)


def tell(error: RequestError) -> None:
    frame = frames.ErrorFrame(
        id="r",
        seq=1,
        run=1,
        node="box",
        code=error.code,
        status=error.status,
        message=error.message,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        detail=error.detail,
    )
    told = msgspec.json.decode(frames.encode(frame))["message"]
    assert told == error.message
    assert 0 < len(told) < 600
    assert told.isprintable()
    assert "enum" not in told


@given(
    payload=hostile.payloads,
    is_json=st.booleans(),
    expiry_s=st.none() | st.integers(0, (1 << 32) - 1),
    now=st.none() | st.floats(0, 4e9),
    rules=st.sampled_from(RULES),
)
@example(b'{"prompt":"x","ttl_s":5,"sent_at":1000}', False, None, 2000.0, RULES[0])
@example(b'\xef\xbb\xbf{"prompt":"x"}', False, None, None, RULES[0])
def test_any_request_is_run_within_the_limits_or_refused_by_name(
    payload: bytes, is_json: bool, expiry_s: int | None, now: float | None, rules: ClientRules
) -> None:
    """With an id to answer under, and what is run can be written to the engine."""
    envelope, error = payloads.open_envelope(payload, is_json=is_json, max_bytes=MAX_BYTES)
    assert is_name(envelope.id)
    assert envelope.reply_qos in (0, 1)
    if error is not None:
        tell(error)
        return
    with only_named_errors():
        draft, _ = payloads.parse_draft(envelope, "me", expiry_s, now)
        request = to_request(draft, Limits(), PROFILES, rules)
        assert 1 <= request.max_tokens <= 1024
        assert request.ttl_s is not None
        assert request.ttl_s <= 3600
        assert request.priority <= 0
        msgspec.msgpack.encode(Submit(key=1, request=request, resume=None))


@given(hostile.payloads)
def test_any_cancel_get_or_question_is_understood_or_refused_by_name(payload: bytes) -> None:
    """What is understood has an id that can stand in a topic, or is about all."""
    with only_named_errors():
        cancel = payloads.parse_cancel(payload, MAX_BYTES)
        assert cancel.all or is_name(cancel.id)
    with only_named_errors():
        assert is_name(payloads.parse_get(payload, MAX_BYTES).id)
    with only_named_errors():
        ctl = payloads.parse_ctl(payload, MAX_BYTES)
        assert is_name(ctl.id)
        assert 1 <= ctl.lines <= 1000


@given(topic=ANY_TOPIC, client=st.sampled_from(["me", "you.2"]), pool=st.none() | st.just("lab"))
def test_any_topic_is_routed_by_names_and_any_reply_topic_is_checked(
    topic: str, client: str, pool: str | None
) -> None:
    """Nothing but BadReplyTopic is raised; what passes can be published to."""
    routed = TOPICS.route(topic)
    if routed is not None:
        assert all(is_name(name) for name in routed.names.values())
    try:
        checked = TOPICS.check_reply(topic, client, pool)
    except BadReplyTopic as error:
        tell(error)
        return
    assert len(checked.encode()) <= MAX_REPLY_BYTES
    assert TOPICS.route(checked) is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ('"prompt":"x","format":"xml"', "format: 'xml' is not allowed; expected json or text"),
        ('"prompt":"x","format":5', "format: 5 is not allowed; expected str, got int"),
        (
            '"messages":[{"role":"wizard","content":"x"}]',
            "messages[0].role: 'wizard' is not allowed; expected system or user or assistant",
        ),
        (
            '"messages":[{"role":"user","content":"x","name":"y"}]',
            "messages[0].name: unknown key; allowed here: role, content",
        ),
        (
            '"messages":[{"role":"user","content":"x","a` - at `$.seed`":1}]',
            "messages[0].'a` - at `$.seed`': unknown key; allowed here: role, content",
        ),
        ('"messages":[{"role":"user"}]', "messages[0].content: is missing; it has no default"),
        ('"prompt":"x","max_tokens":"many"', "max_tokens: 'many' is not allowed; expected int, got str"),
        ('"prompt":"x","max_tokens":0', "max_tokens: 0 is not allowed; expected int >= 1"),
        ('"prompt":"x","temperature":3', "temperature: 3 is not allowed; expected float <= 2.0"),
        ('"prompt":"x","sent_at":-1', "sent_at: -1 is not allowed; expected float >= 0.0"),
        ('"prompt":"x","stop":["a",5]', "stop[1]: 5 is not allowed; expected str, got int"),
        ('"prompt":"x","priority":true', "priority: True is not allowed; expected int, got bool"),
        ('"prompt":"x","reply_qos":2', "reply_qos: 2 is not allowed; expected 0 or 1"),
        ('"prompt":"x","id":"a b"', "id: 'a b' is not allowed; expected 1 to 64 of A-Z a-z 0-9 _ . -"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(fields: str, sentence: str) -> None:
    """Word for word, for these sentences are read by people who write devices."""
    envelope, error = payloads.open_envelope(f"{{{fields}}}".encode(), is_json=False, max_bytes=MAX_BYTES)
    if error is None:
        with pytest.raises(BadRequest) as refusal:
            payloads.parse_draft(envelope, "me", None)
        error = refusal.value
    assert error.message == sentence


@pytest.mark.parametrize(
    "fields",
    [
        '"prompt":["SECRET"]',
        '"messages":"SECRET"',
        '"messages":["SECRET"]',
        '"messages":[{"role":"user","content":["SECRET"]}]',
        '"prompt":"x","system":{"SECRET":"SECRET"}',
        '"prompt":"x","stop":"SECRET"',
    ],
)
def test_what_people_wrote_is_not_said_again(fields: str) -> None:
    """Refusals are logged, and prompts are people's own."""
    envelope, _ = payloads.open_envelope(f"{{{fields}}}".encode(), is_json=False, max_bytes=MAX_BYTES)
    with pytest.raises(BadRequest, match="is not allowed; expected") as refusal:
        payloads.parse_draft(envelope, "me", None)
    assert "SECRET" not in refusal.value.message


def test_the_time_it_was_sent_counts_only_while_the_clock_can_be_believed() -> None:
    """Then the rest of `ttl_s` is what is left; the broker's expiry is another bound."""
    envelope, _ = payloads.open_envelope(
        b'{"prompt":"x","ttl_s":60,"sent_at":1000}', is_json=False, max_bytes=MAX_BYTES
    )
    for now, expiry_s, left_s in ((None, None, 60), (1020, None, 40), (1020, 30, 30), (None, 30, 30)):
        draft, _ = payloads.parse_draft(envelope, "me", expiry_s, now)
        assert (draft.ttl_s, draft.sent_at) == (left_s, 1000)
    with pytest.raises(Expired):
        payloads.parse_draft(envelope, "me", None, 1060)


def test_a_request_without_a_ttl_of_its_own_has_the_box_s_from_its_arrival() -> None:
    """When it was sent alone is no deadline."""
    envelope, _ = payloads.open_envelope(b'{"prompt":"x","sent_at":1000}', is_json=False, max_bytes=MAX_BYTES)
    assert payloads.parse_draft(envelope, "me", None, 9000)[0].ttl_s is None


def test_a_question_may_be_nothing_at_all() -> None:
    """An operator who only publishes to the topic gets an answer under an id made here."""
    for payload in (b"", b" \n", b"{}"):
        ctl = payloads.parse_ctl(payload, MAX_BYTES)
        assert is_name(ctl.id)
        assert ctl.lines == 50
    assert payloads.parse_ctl(b'{"id":"q1","lines":5}', MAX_BYTES).id == "q1"


@pytest.mark.parametrize(
    "payload", [b"", b"x", b"[]", b"5", b"{}", b'{"id":5}', b'{"id":".."}', b'{"id":null}']
)
def test_a_get_needs_an_id(payload: bytes) -> None:
    """There is nothing else it could be about."""
    with pytest.raises(BadRequest):
        payloads.parse_get(payload, MAX_BYTES)
    assert payloads.parse_get(b'{"id":"r1","more":1}', MAX_BYTES).id == "r1"
