"""The OpenAI wire: what is taken, what is refused by name, and how answers and errors look."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api import schemas
from agent.api.schemas import ErrorBody, Reply, parse_request
from agent.errors import BadRequest, Busy, Internal, NotFound, RateLimited, RequestError
from agent.request import Finished, FinishReason, Message, Timings, Trimmed, Usage

HI = [{"role": "user", "content": "hi"}]
END = Finished(FinishReason.STOP, Usage(prompt=7, cached=3, completion=2), Timings(0.0, 0.1, 0.2))
REPLY = Reply(id="chatcmpl-1", created=1700000000, model="tiny")


def body(**fields: Any) -> bytes:
    return json.dumps({"messages": HI, **fields}).encode()


def decoded(value: Any) -> Any:
    return json.loads(schemas.encode(value))


def test_the_smallest_request_leaves_everything_to_the_box() -> None:
    """Only messages are required; None means "as the box likes"."""
    wanted = parse_request(body())
    assert wanted.conversation() == (Message("user", "hi"),)
    assert (wanted.max_tokens, wanted.temperature, wanted.seed, wanted.stream) == (None, None, None, None)
    assert wanted.stop_strings == ()
    assert not wanted.wants_usage


def test_text_parts_are_joined() -> None:
    """A list of text parts is one text."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    wanted = parse_request(body(messages=[{"role": "user", "content": parts}]))
    assert wanted.conversation() == (Message("user", "one\ntwo"),)


def test_developer_is_the_newer_word_for_system() -> None:
    """OpenAI's clients send either."""
    wanted = parse_request(body(messages=[{"role": "developer", "content": "be brief"}, *HI]))
    assert wanted.conversation()[0] == Message("system", "be brief")


@pytest.mark.parametrize(("given", "expected"), [("END", ("END",)), (["a", "b"], ("a", "b")), (None, ())])
def test_stop_is_one_text_or_a_list(given: Any, expected: tuple[str, ...]) -> None:
    """Both spellings mean the same."""
    assert parse_request(body(stop=given)).stop_strings == expected


def test_harmless_unknown_parameters_are_ignored() -> None:
    """What does not change the answer is no reason to refuse it."""
    message = {"role": "user", "content": "hi", "name": "bob", "tool_calls": []}
    wanted = parse_request(body(messages=[message], store=True, metadata={"a": "b"}, service_tier="auto"))
    assert wanted.conversation() == (Message("user", "hi"),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1),
        ("tools", []),
        ("tool_choice", "auto"),
        ("tool_choice", "none"),
        ("logprobs", False),
        ("logit_bias", {}),
        ("modalities", ["text"]),
        *((name, None) for name in schemas.UNSUPPORTED),
    ],
)
def test_unsupported_parameters_may_ask_for_nothing(name: str, value: Any) -> None:
    """Clients send the defaults of what they do not use."""
    parse_request(body(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", 0),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function"}),
        ("logprobs", True),
        ("logit_bias", {"5": -100}),
        ("functions", [{"name": "f"}]),
        ("audio", {"voice": "x"}),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    """A parameter that is silently dropped would be a wrong answer."""
    with pytest.raises(BadRequest, match=f"^{name}: is not supported") as caught:
        parse_request(body(**{name: value}))
    assert caught.value.detail == {"param": name}


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", "many", "max_tokens"),
        ("max_completion_tokens", 1.5, "max_completion_tokens"),
        ("temperature", 2.5, "temperature"),
        ("top_p", 0, "top_p"),
        ("top_k", -1, "top_k"),
        ("seed", -1, "seed"),
        ("stop", 5, "stop"),
        ("stop", [""], "stop[0]"),
        ("stop", ["x"] * 9, "stop"),
        ("min_p", 1, "min_p"),
        ("repeat_penalty", 0, "repeat_penalty"),
        ("presence_penalty", 3, "presence_penalty"),
        ("frequency_penalty", "no", "frequency_penalty"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema", "json_schema": 5}, "response_format.json_schema"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
        ("user", 5, "user"),
        ("session", 5, "session"),
        ("supersede", "yes", "supersede"),
        ("priority", 10, "priority"),
        ("messages", "hi", "messages"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"role": "user", "content": None}], "messages[0].content"),
        ("messages", [{"role": "user"}], "messages[0]"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any, param: str) -> None:
    """The sentence begins with the key, and `param` is the key."""
    with pytest.raises(BadRequest) as caught:
        parse_request(body(**{name: value}))
    assert caught.value.message.startswith(f"{param}: ")
    assert caught.value.detail == {"param": param}


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, '{"type":"object"}'),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "null"}}},
            '{"type":"null"}',
        ),
    ],
)
def test_a_response_format_is_a_schema(wanted: Any, text: str | None) -> None:
    """OpenAI's three kinds."""
    assert parse_request(body(response_format=wanted)).schema_text() == text


@pytest.mark.parametrize("inner", [{}, {"name": "n"}, None])
def test_a_schema_that_is_announced_must_come(inner: Any) -> None:
    """Answering without it would be a wrong answer."""
    wanted = parse_request(body(response_format={"type": "json_schema", "json_schema": inner}))
    with pytest.raises(BadRequest, match=r"^response_format\.json_schema: must hold the schema") as caught:
        wanted.schema_text()
    assert caught.value.detail == {"param": "response_format.json_schema"}


def test_penalties_are_taken() -> None:
    """OpenAI's two, and two of llama.cpp's."""
    wanted = parse_request(body(presence_penalty=0.5, frequency_penalty=-1, repeat_penalty=1.1, min_p=0.05))
    assert (wanted.presence_penalty, wanted.frequency_penalty) == (0.5, -1)
    assert (wanted.repeat_penalty, wanted.min_p) == (1.1, 0.05)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "'image_url' parts",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "must have text"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}, "tool_calls"),
    ],
)
def test_content_that_is_not_text_is_refused_by_name(message: Any, sentence: str) -> None:
    """Images and tool calls cannot be answered here, and are not dropped in silence."""
    wanted = parse_request(body(messages=[*HI, message]))
    with pytest.raises(BadRequest, match=rf"^messages\[1\].*{sentence}"):
        wanted.conversation()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"nope",
        b'"text"',
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"messages": "\xff"}',
        b'{"a": "\\ud800"}',
        b"{}",
    ],
)
def test_what_is_no_request_is_a_bad_request(payload: bytes) -> None:
    """Bytes that are not JSON, or not an object with messages."""
    with pytest.raises(BadRequest):
        parse_request(payload)


@pytest.mark.parametrize(
    "opening", [b"[", b'{"a":', b'{"messages":[{"role":"user","content":"","tool_calls":']
)
def test_deep_nesting_is_a_bad_request(opening: bytes) -> None:
    """Nesting ends in a sentence, not in a RecursionError."""
    with pytest.raises(BadRequest):
        parse_request(opening * 100_000)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_request_or_a_bad_request(payload: bytes) -> None:
    """Nothing else can come out of the door."""
    with contextlib.suppress(BadRequest):
        parse_request(payload).conversation()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*schemas.UNSUPPORTED, *schemas.ChatCompletionRequest.__struct_fields__])


@given(st.dictionaries(KEYS, JSON))
def test_any_object_ends_in_a_request_or_a_bad_request(tree: dict[str, Any]) -> None:
    """The known keys with any values."""
    with contextlib.suppress(BadRequest):
        parse_request(json.dumps(tree).encode()).conversation()


def test_a_whole_answer_looks_like_openais() -> None:
    """With the cached tokens where OpenAI puts them, and our timings besides."""
    assert decoded(REPLY.whole("Hello", END)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "tiny",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
        "timings": {"queue_s": 0.0, "prefill_s": 0.1, "decode_s": 0.2},
    }


def test_chunks_look_like_openais() -> None:
    """Role first, then content, then the reason; counts come without choices."""
    chunks = [decoded(c) for c in (REPLY.first(), REPLY.piece("Hi"), REPLY.last(END), REPLY.counts(END))]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert [c["choices"] for c in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        [],
    ]
    assert [("usage" in c) for c in chunks] == [False, False, False, True]


def test_what_was_left_out_is_said_beside_the_counts() -> None:
    """In the whole answer, and in the chunk with the reason; otherwise the key is not there."""
    end = msgspec.structs.replace(END, trimmed=Trimmed(turns=2, tokens=90))
    for value in (REPLY.whole("x", end), REPLY.last(end)):
        assert decoded(value)["trimmed"] == {"turns": 2, "tokens": 90}
    assert "trimmed" not in decoded(REPLY.last(END))


@pytest.mark.parametrize(
    ("roles", "is_one_turn"),
    [
        (["user"], True),
        (["system", "user"], True),
        (["developer", "user"], True),
        (["user", "assistant", "user"], False),
        (["user", "user"], False),
        (["assistant"], False),
        (["system"], False),
    ],
)
def test_one_user_message_is_a_turn_and_more_are_a_history(roles: list[str], is_one_turn: bool) -> None:
    """A session's next turn looks like any first request."""
    wanted = parse_request(body(messages=[{"role": role, "content": "x"} for role in roles], session="s"))
    assert wanted.is_one_turn is is_one_turn


@pytest.mark.parametrize(
    ("reason", "word", "detail"),
    [
        (FinishReason.STOP, "stop", None),
        (FinishReason.LENGTH, "length", None),
        (FinishReason.CANCELLED, "length", "cancelled"),
        (FinishReason.TIMEOUT, "length", "timeout"),
    ],
)
def test_a_cut_answer_is_never_passed_off_as_complete(
    reason: FinishReason, word: str, detail: str | None
) -> None:
    """OpenAI's closed list has `length` for "cut"; `finish_detail` says by what."""
    end = msgspec.structs.replace(END, finish_reason=reason)
    for choice in (decoded(REPLY.whole("x", end))["choices"][0], decoded(REPLY.last(end))["choices"][0]):
        assert (choice["finish_reason"], choice.get("finish_detail")) == (word, detail)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("n: no", param="n"), "invalid_request_error"),
        (NotFound("no"), "not_found_error"),
        (RateLimited("no"), "rate_limit_error"),
        (Busy("no"), "server_error"),
        (Internal("no"), "server_error"),
    ],
)
def test_errors_look_like_openais(error: RequestError, kind: str) -> None:
    """`code` is ours, the type is OpenAI's."""
    assert decoded(ErrorBody.of(error)) == {
        "error": {
            "message": error.message,
            "type": kind,
            "code": error.code,
            "param": error.detail.get("param"),
        }
    }


@pytest.mark.parametrize(("ms", "header"), [(1, "1"), (1000, "1"), (1001, "2"), (60000, "60")])
def test_retry_after_is_in_whole_seconds_rounded_up(ms: int, header: str) -> None:
    """A client that comes back earlier would be refused again."""
    assert schemas.error_headers(Busy("no", retry_after_ms=ms)) == {"Retry-After": header}
    assert schemas.error_headers(Busy("no")) == {}


def test_ids_differ_and_are_names_on_the_wire() -> None:
    """1 to 64 characters that may stand in a topic."""
    ids = {schemas.make_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(name.startswith("chatcmpl-") and len(name) <= 64 for name in ids)
