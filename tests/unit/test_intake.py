"""The reader thread: what reaches the engine is tokenised and fits; the rest is rejected at the door."""

import contextlib
import queue
import socket

import msgspec
import pytest

from agent.engine.chat_template import ChatTemplate
from agent.engine.engine import Engine, Rejected, Stop, Work
from agent.engine.intake import Intake
from agent.engine.messages import Cancel, Load, Pipe, Submit, encode
from agent.engine.pool import Pool
from agent.engine.prompt import Prompt
from agent.request import FinishReason, Message, Request, Resume
from tests.support.engine_driver import GREEDY
from tests.support.fake_backend import TURN, TURN_END, FakeBackend, FakeTokenizer

LOAD = Load("model.gguf", 256, 1, 32, 1, "f16", 0)


def request(*contents: str) -> Request:
    messages = tuple(Message("user", content) for content in contents)
    return Request(client="c", id="1", messages=messages, sampling=GREEDY, max_tokens=8)


def work_from(
    *sent: Submit | Cancel | Load, chat_template: str | None = "<|turn|>{{ messages[0].content }}<|end|>"
) -> list[Work]:
    """What lands in the engine's inbox when a daemon sends this and closes the pipe."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join(map(encode, sent)))
    backend = FakeBackend(num_cells=32, tokenizer=FakeTokenizer(chat_template=chat_template))
    backend.tokenizer.bos = None
    engine = Engine(backend, Pool(backend, n_ctx=32), emit=lambda _message: None)
    with contextlib.closing(Pipe(ours)) as pipe:
        Intake(pipe, engine, ChatTemplate(backend.tokenizer), n_ctx=32).run()
    work = []
    with contextlib.suppress(queue.Empty):
        while True:
            work.append(engine.inbox.get_nowait())
    return work


def rejection(*contents: str, chat_template: str) -> Rejected:
    rejected, stop = work_from(Submit(1, request(*contents)), chat_template=chat_template)
    assert isinstance(rejected, Rejected)
    assert stop == Stop()
    return rejected


def test_a_request_becomes_tokens() -> None:
    prompt, _ = work_from(Submit(7, request("hi"), Resume((1, 2), 2)))
    assert isinstance(prompt, Prompt)
    assert (prompt.key, prompt.tokens, prompt.resume) == (7, [TURN, *b"hi", TURN_END], Resume((1, 2), 2))


def test_messages_keep_their_order_and_the_end_of_the_pipe_stops_the_engine() -> None:
    """A cancel never overtakes the request it is for."""
    cancel = Cancel(7, FinishReason.CANCELLED)
    prompt, second, stop = work_from(Submit(7, request("hi")), cancel)
    assert isinstance(prompt, Prompt)
    assert (second, stop) == (cancel, Stop())


def test_a_prompt_that_leaves_no_cell_for_an_answer_is_rejected_with_the_numbers() -> None:
    rejected = rejection("x" * 32, chat_template="{{ messages[0].content }}")
    assert rejected.failed.code == "context_overflow"
    assert rejected.failed.detail == {"n_prompt": 32, "n_ctx": 32}


def test_a_prompt_that_just_fits_is_taken() -> None:
    prompt, _ = work_from(Submit(1, request("x" * 31)), chat_template="{{ messages[0].content }}")
    assert isinstance(prompt, Prompt)


def test_a_prompt_without_a_token_is_rejected() -> None:
    """The model has nothing to continue."""
    assert rejection("", chat_template="{{ messages[0].content }}").failed.code == "bad_request"


def test_a_prompt_the_template_refuses_is_rejected() -> None:
    rejected = rejection("hi", chat_template="{{ raise_exception('no user turns') }}")
    assert rejected.failed.code == "bad_request"
    assert "no user turns" in rejected.failed.message


def with_schema(schema: str) -> Submit:
    return Submit(1, msgspec.structs.replace(request("hi"), schema=schema))


def test_a_schema_becomes_a_grammar() -> None:
    prompt, _ = work_from(with_schema('{"type": "null"}'))
    assert isinstance(prompt, Prompt)
    assert prompt.grammar is not None
    assert '"null"' in prompt.grammar


@pytest.mark.parametrize("schema", ['{"pattern": "x"}', "{" * 3_000, "[]", ""])
def test_a_schema_that_cannot_be_kept_is_rejected(schema: str) -> None:
    """On the reader thread; the engine never hears of it."""
    rejected, _ = work_from(with_schema(schema))
    assert isinstance(rejected, Rejected)
    assert rejected.failed.code == "bad_request"
    assert rejected.failed.message.startswith("schema")


def test_trouble_of_our_own_ends_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader thread goes on with the next."""

    def fail(_self: object, text: str, *, parse_special: bool = False) -> list[int]:
        if "bad" in text:
            raise RuntimeError("out of cheese")
        return list(text.encode())

    monkeypatch.setattr(FakeTokenizer, "tokenize", fail)
    first, second, _ = work_from(Submit(1, request("bad")), Submit(2, request("good")))
    assert isinstance(first, Rejected)
    assert first.failed.code == "internal"
    assert isinstance(second, Prompt)


def test_a_message_that_does_not_belong_here_ends_the_engine() -> None:
    """A model is loaded once; whoever sends Load again speaks another protocol."""
    assert work_from(LOAD, Submit(1, request("hi"))) == [Stop()]
