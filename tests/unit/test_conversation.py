"""Conversations that are too long: whole oldest turns go, and what stays keeps its beginning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.chat_template import ChatTemplate
from agent.engine.conversation import Fitted, first_kept, fit
from agent.errors import ContextOverflow
from agent.request import Message
from tests.support.fake_backend import FakeTokenizer

TEMPLATE = ChatTemplate(FakeTokenizer())
SYSTEM = Message("system", "be brief")


def conversation(sizes: list[int], *, system: bool = True) -> list[Message]:
    """Turns of a question and an answer each, of so many letters; the last one waits for its answer."""
    messages = [SYSTEM] if system else []
    for number, size in enumerate(sizes):
        messages.append(Message("user", chr(97 + number % 26) * size))
        messages.append(Message("assistant", chr(65 + number % 26) * size))
    return messages[:-1]


def fitted(messages: list[Message], n_ctx: int, max_tokens: int = 10) -> Fitted:
    return fit(messages, TEMPLATE.tokenize, n_ctx, max_tokens)


def test_what_fits_is_left_alone() -> None:
    messages = conversation([5, 5])
    one = fitted(messages, 1000)
    assert one.messages == tuple(messages)
    assert (one.trimmed.turns, one.trimmed.tokens, one.num_turns) == (0, 0, 1)


def test_the_history_is_what_can_be_taken_out() -> None:
    """Without it the tokens are those of the system prompt and the last turn."""
    messages = conversation([7, 9, 4])
    one = fitted(messages, 1000)
    start, end = one.history
    assert one.tokens[:start] + one.tokens[end:] == TEMPLATE.tokenize([SYSTEM, messages[-1]])


def test_a_single_prompt_is_never_cut() -> None:
    with pytest.raises(ContextOverflow) as overflow:
        fitted([Message("user", "x" * 500)], 200)
    assert overflow.value.detail == {
        "n_prompt": len(TEMPLATE.tokenize([Message("user", "x" * 500)])),
        "n_ctx": 200,
    }


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(60, 400), st.booleans())
def test_the_oldest_turns_go_and_nothing_else(sizes: list[int], n_ctx: int, system: bool) -> None:
    """The system prompt, the last turn and an unbroken run of turns before it stay; or it overflows."""
    messages = conversation(sizes, system=system)
    try:
        one = fitted(messages, n_ctx)
    except ContextOverflow:
        assert len(TEMPLATE.tokenize([*messages[:system], messages[-1]])) >= n_ctx
        return
    assert len(one.tokens) < n_ctx
    kept = one.messages[system:]
    assert one.messages[:system] == tuple(messages[:system])
    assert kept == tuple(messages[len(messages) - len(kept) :])
    assert one.trimmed.turns * 2 == len(messages) - len(one.messages)
    assert one.trimmed.tokens == len(TEMPLATE.tokenize(messages)) - len(one.tokens)
    assert one.num_turns + one.trimmed.turns == len(sizes) - 1


def test_a_growing_conversation_keeps_its_beginning_for_several_turns() -> None:
    """Cutting a little at every turn would have everything computed again every time."""
    starts = [first_kept([10] * num_turns, 100) for num_turns in range(1, 40)]
    assert starts == sorted(starts)
    assert len(set(starts)) < len(starts) / 2
    for num_turns, start in enumerate(starts, start=1):
        assert (num_turns - start) * 10 <= 100
