"""Topics: what is ours, what a client may ask for, and nothing in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadReplyTopic
from agent.mqtt.channels import CANCEL, REQUEST
from agent.mqtt.names import is_name
from agent.mqtt.topics import Routed, Topics

TOPICS = Topics("tampu/v1", "box", reply_prefixes=("bridge/replies",))


def test_requests_and_cancels_are_routed_to_their_client() -> None:
    """The last segment is the client."""
    assert TOPICS.route("tampu/v1/box/request/me") == Routed(REQUEST, {"client": "me"})
    assert TOPICS.route("tampu/v1/box/cancel/sensor-7.a") == Routed(CANCEL, {"client": "sensor-7.a"})


@pytest.mark.parametrize(
    "topic",
    [
        "tampu/v1/other/request/me",
        "tampu/v1/box/request/",
        "tampu/v1/box/request/a/b",
        "tampu/v1/box/request/..",
        "tampu/v1/box/response/me",
        "tampu/v1/box/request/a b",
        "tampu/v1/box/request/me\n",
        "",
    ],
)
def test_other_topics_are_not_ours(topic: str) -> None:
    """Not routed at all."""
    assert TOPICS.route(topic) is None


@pytest.mark.parametrize(
    "topic",
    ["tampu/v1/box/response/me", "tampu/v1/box/response/me/x", "bridge/replies/me/1", "bridge/replies"],
)
def test_a_client_may_reply_inside_its_own_topics_and_configured_prefixes(topic: str) -> None:
    """Its response topics, and what `reply_prefixes` adds."""
    assert TOPICS.check_reply(topic, "me") == topic


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "tampu/v1/box/response/you/x",
        "tampu/v1/box/response/me2",
        "tampu/v1/box/request/me",
        "tampu/v1/box/status",
        "bridge/replies/+",
        "tampu/v1/box/response/me/#",
        "$SYS/broker",
        "bridge/replies\0",
        "bridge/replies/" + "x" * 256,
        "bridge/repliesX",
        "bridge/replies/\ud800",
    ],
)
def test_other_reply_topics_are_refused(topic: str) -> None:
    """Another client's, our own, wildcards, control characters, too long."""
    with pytest.raises(BadReplyTopic):
        TOPICS.check_reply(topic, "me")


WIDE = Topics("tampu/v1", "box", ("tampu/v1", "homeassistant"), ("herbs",), "homeassistant")


@pytest.mark.parametrize(
    "topic",
    [
        "tampu/v1/box/request/me",
        "tampu/v1/other/request/me",
        "tampu/v1/other/request",
        "tampu/v1/other/cancel",
        "tampu/v1/pool/herbs/request",
        "tampu/v1/other/ctl/request",
        "tampu/v1/other/ctl/response/info/r1",
        "tampu/v1/other/status",
        "tampu/v1/other/info",
        "tampu/v1/other/health",
        "homeassistant/status",
        "homeassistant/device/other/config",
    ],
)
def test_a_wide_prefix_lets_nobody_speak_as_a_box_or_ask_one(topic: str) -> None:
    """Nor with the endings of bare text, `/done` and `/error`: an answer would be a request, and so on."""
    with pytest.raises(BadReplyTopic, match="one that a box uses itself"):
        WIDE.check_reply(topic, "me")


@given(st.text())
def test_a_checked_reply_topic_is_always_inside_an_allowed_root(topic: str) -> None:
    """Whatever is offered: refused, or below one of the roots and without wildcards."""
    try:
        checked = TOPICS.check_reply(topic, "me")
    except BadReplyTopic:
        return
    assert checked.startswith(("tampu/v1/box/response/me", "bridge/replies"))
    assert not set(checked) & set("+#\0")


@given(st.text(max_size=80))
def test_a_name_never_holds_a_separator_or_wildcard(text: str) -> None:
    """What passes for a name can stand in a topic."""
    if is_name(text):
        assert 1 <= len(text) <= 64
        assert not set(text) & set("/+#$\0\n ")
        assert text not in {".", ".."}
