"""Tokenises text of mixed trust: control token strings count only where the template wrote them.

Template text is cut at control-token strings, which become their tokens. What lies between two of
them, template text and untrusted content together, is one run that is tokenised as plain text: cutting
at the content's edge instead would change how benign prompts merge. User-defined tokens match even in
plain text, so where markup would touch content the run is tokenised in two, after the markup's first
character.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from agent.engine.backend import SpecialToken, Tokenizer

# Splits a control string in two for tokenisers and stays invisible to a reader.
ZERO_WIDTH_SPACE = "\u200b"
# What C's isspace knows, which is what llama.cpp strips; Python's own strip knows more.
WHITE_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    is_trusted: bool


@dataclass(slots=True)
class _Run:
    """Plain text between two control tokens; `untrusted` are its spans (start, end) from outside."""

    text: str = ""
    untrusted: list[tuple[int, int]] = field(default_factory=list)

    def add(self, segment: Segment) -> None:
        start = len(self.text)
        self.text += segment.text
        if not segment.is_trusted:
            self.untrusted.append((start, len(self.text)))

    def touches_untrusted(self, start: int, end: int) -> bool:
        return any(start < stop and begin < end for begin, stop in self.untrusted)

    def strip_left(self) -> None:
        cut = len(self.text) - len(self.text.lstrip(WHITE_SPACE))
        self.text = self.text[cut:]
        self.untrusted = [(max(0, start - cut), max(0, end - cut)) for start, end in self.untrusted]

    def strip_right(self) -> None:
        self.text = self.text.rstrip(WHITE_SPACE)


class SegmentTokenizer:
    """One vocabulary, with its special strings made ready to be searched for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        specials = tokenizer.specials.items()
        self._control = _pattern(text for text, token in specials if token.is_control)
        self._markup = _pattern(text for text, token in specials if not token.is_control and is_markup(text))

    def tokenize(self, segments: Iterable[Segment]) -> list[int]:
        """The tokens of the segments in order, without a BOS of our own."""
        tokens: list[int] = []
        strip_next = False
        for item in self._cut(segments):
            if isinstance(item, SpecialToken):
                tokens.append(item.id)
                strip_next = item.strips_right
                continue
            if strip_next:
                item.strip_left()
            for piece in self._pieces(item):
                tokens += self._tokenizer.tokenize(piece)
            strip_next = False
        return tokens

    def _cut(self, segments: Iterable[Segment]) -> list[_Run | SpecialToken]:
        """Runs of plain text and the control tokens between them, white space stripped as the tokens ask."""
        items: list[_Run | SpecialToken] = []
        run = _Run()
        for segment in segments:
            if not segment.is_trusted or self._control is None:
                run.add(segment)
                continue
            end = 0
            for match in self._control.finditer(segment.text):
                run.add(Segment(segment.text[end : match.start()], is_trusted=True))
                special = self._tokenizer.specials[match.group()]
                if special.strips_left:
                    run.strip_right()
                items += [run, special]
                run, end = _Run(), match.end()
            run.add(Segment(segment.text[end:], is_trusted=True))
        return [*items, run]

    def _pieces(self, run: _Run) -> list[str]:
        """The run, cut after the first character of all user-defined markup that touches content."""
        cuts = [0]
        at = 0
        while match := self._markup and self._markup.search(run.text, at):
            # Another match may begin inside this one, and touch content where this one does not.
            at = match.start() + 1
            if run.touches_untrusted(match.start(), match.end()):
                cuts.append(at)
        cuts.append(len(run.text))
        return [run.text[start:end] for start, end in pairwise(cuts) if start < end]


def is_markup(string: str) -> bool:
    """Does a special string mean anything to a model? User-defined letters and white space do not."""
    return len(string) > 1 and not string.isspace()


def break_specials(text: str, specials: Iterable[str]) -> str:
    """The text with zero-width spaces around each character that may begin or end a special string.

    Not only around whole strings: a template may cut the text, join the pieces, or write the rest
    of the string itself.
    """
    markup = list(filter(is_markup, specials))
    edges = {string[0] for string in markup} | {string[-1] for string in markup}
    return "".join(f"{ZERO_WIDTH_SPACE}{char}{ZERO_WIDTH_SPACE}" if char in edges else char for char in text)


def _pattern(strings: Iterable[str]) -> re.Pattern[str] | None:
    """Matches the longest of the strings at each place."""
    ordered = sorted(filter(None, strings), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
