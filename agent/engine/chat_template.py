"""Messages to tokens, so that no text from a device can become a control token.

The model's jinja template is rendered with a random marker in place of every content; the markers
give back which parts of the result are the template's own and which came from outside. Control
token strings count only in the template's parts (segments.py). Rendering untrusted text and
tokenising the result with special parsing on, as is usual, lets `<|im_start|>system` in a sensor's
name open a system turn.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.engine.backend import Tokenizer
from agent.engine.prefix import common_length
from agent.engine.segments import Segment, break_specials, tokenize_segments
from agent.errors import BadRequest, ModelUnavailable
from agent.request import Message

# For a model file without a template: the turns as paragraphs, which is what base models continue.
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"

# What a template can run into. Any other exception would be a bug of ours.
STUMBLES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Public prefixes that are remembered; one costs its tokens twice to find again.
MAX_PUBLIC = 32
# How its two questions begin: by chance they would sometimes begin alike.
PROBES = ("7", "Q")


class ChatTemplate:
    """Renders and tokenises conversations for one model. Safe to use from one thread at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises ModelUnavailable when the model's template is not valid jinja."""
        self._tokenizer = tokenizer
        self._public: dict[tuple[Message, ...], list[int]] = {}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
        try:
            self._template = environment.from_string(tokenizer.chat_template or PLAIN_TEMPLATE)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelUnavailable(f"the model file's chat template is not valid jinja: {error}") from error

    def tokenize(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens, ending where the assistant's answer begins.

        Raises BadRequest when the template refuses the messages (two system turns, say).
        """
        contents = [message.content for message in messages]
        return self._with_bos(tokenize_segments(self._segments(messages, contents), self._tokenizer))

    def _segments(self, messages: Sequence[Message], contents: Sequence[str]) -> list[Segment]:
        markers = [secrets.token_hex(16) for _ in messages]
        marked, text = self._render(messages, markers), self._render(messages, contents)
        # Many templates trim the contents; that is no reason to lose their places.
        for inserted in (contents, [content.strip() for content in contents]):
            segments = split_at_markers(marked, markers, inserted)
            if segments is not None and text == "".join(segment.text for segment in segments):
                return segments
        # The template looks into the contents (cuts, repeats or tests them), so their places in its
        # output cannot be known: take the control strings out of the contents instead.
        broken = [break_specials(content, self._tokenizer.specials) for content in contents]
        return [Segment(self._render(messages, broken), is_trusted=True)]

    def public_prefix(self, messages: Sequence[Message]) -> list[int]:
        """The tokens every prompt with these system messages begins with, whatever a client adds.

        What two prompts with different random questions have in common cannot have come from the
        question. Remembered for the last few system prompts: a fleet of devices has few.
        """
        system = tuple(message for message in messages if message.role == "system")
        if system not in self._public:
            questions = [Message("user", first + secrets.token_hex(8)) for first in PROBES]
            probes = [self.tokenize([*system, question]) for question in questions]
            while len(self._public) >= MAX_PUBLIC:
                self._public.pop(next(iter(self._public)))
            self._public[system] = probes[0][: common_length(*probes)]
        return self._public[system]

    def _render(self, messages: Sequence[Message], contents: Sequence[str]) -> str:
        turns: list[dict[str, Any]] = [
            {"role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=True)
        ]
        try:
            return self._template.render(
                messages=turns,
                add_generation_prompt=True,
                bos_token=self._tokenizer.bos_text,
                eos_token=self._tokenizer.eos_text,
                tools=None,
            )
        except STUMBLES as error:
            raise BadRequest(f"the model's chat template refuses these messages: {error}") from error

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._tokenizer.bos
        return tokens if bos is None or tokens[:1] == [bos] else [bos, *tokens]


def split_at_markers(text: str, markers: Sequence[str], contents: Sequence[str]) -> list[Segment] | None:
    """The rendered text with each marker replaced by its content; None unless each stands there once."""
    segments: list[Segment] = []
    places = sorted((text.find(marker), index) for index, marker in enumerate(markers))
    if any(text.count(marker) != 1 for marker in markers):
        return None
    end = 0
    for place, index in places:
        segments.append(Segment(text[end:place], is_trusted=True))
        segments.append(Segment(contents[index], is_trusted=False))
        end = place + len(markers[index])
    segments.append(Segment(text[end:], is_trusted=True))
    return [segment for segment in segments if segment.text]


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
