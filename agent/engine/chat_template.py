"""Messages to tokens, so that no text from a device can become a control token.

The model's jinja template is rendered with a random marker in place of every content; the markers
give back which parts of the result are the template's own and which came from outside. Control
token strings count only in the template's parts (segments.py). Rendering untrusted text and
tokenising the result with special parsing on, as is usual, lets `<|im_start|>system` in a sensor's
name open a system turn.
"""

import logging
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.engine.backend import Tokenizer
from agent.engine.prefix import common_length
from agent.engine.segments import Segment, SegmentTokenizer, break_specials
from agent.engine.template_check import leak
from agent.errors import BadRequest, ModelUnavailable
from agent.request import Message

log = logging.getLogger(__name__)

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


class ChatTemplate:
    """Renders and tokenises conversations for one model. Safe to use from one thread at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises ModelUnavailable when the model's template is not valid jinja."""
        self._tokenizer = tokenizer
        self._segment_tokenizer = SegmentTokenizer(tokenizer)
        self._public: dict[tuple[Message, ...], list[int]] = {}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
        try:
            self._template = environment.from_string(tokenizer.chat_template or PLAIN_TEMPLATE)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelUnavailable(f"the model file's chat template is not valid jinja: {error}") from error
        self._breaks_all = False
        self._check()

    def _check(self) -> None:
        """Should segments not hold for this model, break special strings in every content."""
        if string := leak(self.tokenize, self._tokenizer):
            log.warning("%r in a content would become a control token: such strings are broken up", string)
            self._breaks_all = True
            if string := leak(self.tokenize, self._tokenizer):
                log.error("%r in a content becomes a control token even so: trust no device's text", string)

    def tokenize(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens, ending where the assistant's answer begins.

        Raises BadRequest when the template refuses the messages (two system turns, say).
        """
        contents = [message.content for message in messages]
        return self._with_bos(self._segment_tokenizer.tokenize(self._segments(messages, contents)))

    def _segments(self, messages: Sequence[Message], contents: Sequence[str]) -> list[Segment]:
        if not self._breaks_all:
            markers = [secrets.token_hex(16) for _ in messages]
            marked, text = self._render(messages, markers), self._render(messages, contents)
            segments = split_at_contents(text, marked, markers, contents)
            if segments is not None:
                return segments
        # The template looks into the contents (cuts, repeats or tests them), so their places in its
        # output cannot be known: take the control strings out of the contents instead.
        broken = [break_specials(content, self._tokenizer.specials) for content in contents]
        return [Segment(self._render(messages, broken), is_trusted=True)]

    def public_prefix(self, messages: Sequence[Message]) -> list[int]:
        """The tokens every prompt with these system messages begins with, whatever a client adds.

        What two prompts have in common whose questions differ from the first letter on cannot have come
        from a question. Remembered for the last few system prompts: a fleet of devices has few.
        """
        system = tuple(message for message in messages if message.role == "system")
        if system not in self._public:
            while len(self._public) >= MAX_PUBLIC:
                self._public.pop(next(iter(self._public)))
            self._public[system] = self._common_to_all(system)
        return self._public[system]

    def _common_to_all(self, system: tuple[Message, ...]) -> list[int]:
        try:
            probes = [self.tokenize([*system, Message("user", letter * 8)]) for letter in "qz"]
        except BadRequest:
            return []  # a template may want more turns than these
        return probes[0][: common_length(*probes)]

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


def split_at_contents(
    text: str, marked: str, markers: Sequence[str], contents: Sequence[str]
) -> list[Segment] | None:
    """A rendered text cut into the template's parts and the contents, which it may have trimmed.

    `marked` is the same with the markers instead of the contents: what stands around them is the template's
    own. None when a marker is lost or doubled, or a content is neither whole nor trimmed in its place.
    """
    if any(marked.count(marker) != 1 for marker in markers):
        return None
    order = sorted(range(len(markers)), key=lambda index: marked.index(markers[index]))
    own, rest = [], marked
    for index in order:
        before, rest = rest.split(markers[index])
        own.append(before)
    own.append(rest)
    segments, end = [Segment(own[0], is_trusted=True)], len(own[0])
    for index, part in zip(order, own[1:], strict=True):
        trimmed = _trimmings(contents[index])
        content = next((each for each in trimmed if text.startswith(each + part, end)), None)
        if content is None:
            return None
        segments += [Segment(content, is_trusted=False), Segment(part, is_trusted=True)]
        end += len(content) + len(part)
    if not text.startswith(own[0]) or end != len(text):
        return None
    return [segment for segment in segments if segment.text]


def _trimmings(content: str) -> tuple[str, ...]:
    """The content as templates put it: whole, or without white space or line feeds on one side or both."""
    of_space = (content.strip(), content.lstrip(), content.rstrip())
    of_lines = (content.strip("\n"), content.lstrip("\n"), content.rstrip("\n"))
    return (content, *of_space, *of_lines)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class _GenerationTag(Extension):
    """`{% generation %}`, which marks for training what the model is to say: here its body and no more."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
