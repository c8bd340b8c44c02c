"""Makes a conversation fit: whole oldest turns go, the system prompt and the last turn never do.

A turn is a user's message and what was answered to it. Which turns go depends on the conversation's
beginning only, and when some must, more than one goes: the next request of the same conversation
then begins like this one, and what is resident of it can be used again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.engine.prefix import common_length
from agent.errors import BadRequest, ContextOverflow
from agent.request import Message, Trimmed

# After a cut the conversation fills this part of its room.
KEPT = 0.75
# Room an answer is sure of, as a part of the context, when there is history to cut.
ANSWER_SHARE = 4
NO_HISTORY = (0, 0)

Tokenize = Callable[[Sequence[Message]], list[int]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """`history` are the tokens (start, end) of the `num_turns` turns before the last one."""

    messages: tuple[Message, ...]
    tokens: list[int]
    history: tuple[int, int]
    num_turns: int
    trimmed: Trimmed


def fit(messages: Sequence[Message], tokenize: Tokenize, n_ctx: int, max_tokens: int) -> Fitted:
    """The conversation's tokens, and what had to be left out so that it and an answer fit `n_ctx` tokens.

    Raises ContextOverflow when system prompt and last turn alone do not fit.
    """
    system, turns = split(messages)
    tokens = tokenize(messages)
    num_all, num_left_out = len(tokens), 0
    room = n_ctx - min(max_tokens, n_ctx // ANSWER_SHARE)
    if num_all > room and len(turns) > 1:
        num_left_out = first_kept([_size(turn, tokenize) for turn in turns], room - _size(system, tokenize))
        while True:
            messages = join(system, turns[num_left_out:])
            tokens = tokenize(messages)
            if len(tokens) <= room or num_left_out == len(turns) - 1:
                break
            num_left_out += 1
    if len(tokens) >= n_ctx:
        raise ContextOverflow(
            f"the prompt has {len(tokens)} tokens and the context {n_ctx}; shorten the prompt",
            n_prompt=len(tokens),
            n_ctx=n_ctx,
        )
    num_turns = len(turns) - 1 - num_left_out
    last = tokenize(join(system, turns[-1:])) if num_turns > 0 else tokens
    return Fitted(
        messages=tuple(messages),
        tokens=tokens,
        history=history_span(tokens, last),
        num_turns=max(0, num_turns),
        trimmed=Trimmed(turns=num_left_out, tokens=num_all - len(tokens)),
    )


def split(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages at the beginning, and the turns, which begin with a user's message each."""
    start = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    turns: list[list[Message]] = []
    for message in messages[start:]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns


def join(system: Sequence[Message], turns: Sequence[Sequence[Message]]) -> list[Message]:
    """The conversation of these."""
    return [*system, *(message for turn in turns for message in turn)]


def first_kept(sizes: Sequence[int], room: int) -> int:
    """The first turn that stays: cuts happen where a conversation that grew turn by turn overflowed.

    The last turn always stays, whatever its size in tokens.
    """
    start, total = 0, 0
    for index, size in enumerate(sizes):
        total += size
        if total > room:
            while total > room * KEPT and start < index:
                total -= sizes[start]
                start += 1
    return start


def history_span(tokens: list[int], last: list[int]) -> tuple[int, int]:
    """The tokens whose removal turns `tokens` into `last`; NO_HISTORY when no one span does."""
    start = common_length(tokens, last)
    end = len(tokens) - (len(last) - start)
    return (start, end) if end > start and tokens[end:] == last[start:] else NO_HISTORY


def _size(messages: Sequence[Message], tokenize: Tokenize) -> int:
    """About so many tokens: templates may refuse a part of a conversation, or add to it."""
    try:
        return len(tokenize(messages)) if messages else 0
    except BadRequest:
        return sum(len(message.content) // 3 for message in messages)
