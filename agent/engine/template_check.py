"""Asked once for each model: can a content add control tokens to its prompts?

Segmented tokenisation rests on what is so for the tokenisers we know: plain text does not become a control
token. This tries it on the very vocabulary and template that were loaded, in a few milliseconds.
"""

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Literal

from agent.engine.backend import Tokenizer
from agent.engine.segments import ZERO_WIDTH_SPACE, is_markup
from agent.errors import BadRequest
from agent.request import Message

Roles = tuple[Literal["system", "user", "assistant"], ...]
# Templates refuse some conversations: the first that is taken is tried.
SHAPES: tuple[Roles, ...] = (
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "user"),
    ("user",),
)
# A vocabulary may have thousands; those that its template writes come first.
MAX_STRINGS = 16
# Templates that write pages take longer over each; the rest is not tried then.
MAX_S = 0.04


def leak(tokenize: Callable[[Sequence[Message]], list[int]], tokenizer: Tokenizer) -> str | None:
    """A special string that changes a prompt's special tokens where it stands in a content, or None."""
    ids = {special.id for string, special in tokenizer.specials.items() if is_markup(string)}

    def markup(roles: Roles, contents: Sequence[str]) -> list[int] | None:
        """The prompt's special tokens, None when the template refuses it."""
        said = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
        try:
            return [token for token in tokenize(said) if token in ids]
        except BadRequest:
            return None

    for roles in SHAPES:
        benign = markup(roles, ["xx x"] * len(roles))
        if benign is not None:
            break
    else:
        return None
    end = time.monotonic() + MAX_S
    for number, string in enumerate(_strings(tokenizer)):
        forms = cycle((string, _hidden(string)))
        contents = list(islice(forms, number % 2, number % 2 + len(roles)))
        if markup(roles, contents) not in (benign, None):
            return string
        if time.monotonic() > end:
            break
    return None


def _strings(tokenizer: Tokenizer) -> list[str]:
    written = tokenizer.chat_template or ""
    strings = sorted(filter(is_markup, tokenizer.specials), key=lambda string: string not in written)
    return strings[:MAX_STRINGS]


def _hidden(string: str) -> str:
    """The string among parts of itself, which what stands beside may complete."""
    half = len(string) // 2
    head, tail = string[:half], string[half:]
    return f"{tail} {head}{string}{tail} {head}{ZERO_WIDTH_SPACE}{tail} {head}"
