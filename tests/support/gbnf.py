"""Follows a text through a GBNF grammar the way llama.cpp does: all readings at once, a stack each.

For tests of our grammars without a model. Reads what agent/engine/gbnf.py may write: literals,
character classes, groups, repetitions.
"""

import re
from dataclasses import dataclass

Place = tuple[int, int, int]
"""Rule, alternative, index."""
Stack = tuple[Place, ...]

_TOKEN = re.compile(
    r'\s*(?:"((?:[^"\\]|\\.)*)"|\[((?:[^\]\\]|\\.)*)\]|(\{\d+(?:,\d*)?\})|([A-Za-z][A-Za-z0-9-]*)|([()|*+?]))',
    re.S,
)
_ESCAPE = re.compile(r"\\(?:x(..)|(.))", re.S)


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a class."""

    ranges: tuple[tuple[str, str], ...]
    is_negated: bool = False

    def has(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) != self.is_negated


Element = Chars | int
"""A character, or a reference to a rule."""


class Grammar:
    """A parsed grammar. Raises AssertionError for what llama.cpp would refuse, or take and choke on."""

    def __init__(self, text: str) -> None:
        self.rules: list[list[tuple[Element, ...]]] = []
        self._ids: dict[str, int] = {}
        for line in text.splitlines():
            name, body = line.split(" ::= ", 1)
            rule = self._id(name)
            assert not self.rules[rule], f"{name} is defined twice"
            self._tokens = self._tokenise(body)
            self.rules[rule] = self._alternatives()
            assert not self._tokens, f"{name} goes on after its end"
        assert all(self.rules), "a rule is used and not defined"

    def start(self) -> set[Stack]:
        """The readings of nothing so far."""
        readings: set[Stack] = set()
        root = self._ids["root"]
        for index in range(len(self.rules[root])):
            self._expand(self._push((), (root, index, 0)), readings)
        return readings

    def accept(self, readings: set[Stack], text: str) -> set[Stack]:
        """The readings after some more text; empty when it is not allowed, () among them at an end."""
        for char in text:
            after: set[Stack] = set()
            for stack in readings:
                if stack and self._chars(stack[-1]).has(char):
                    rule, alternative, index = stack[-1]
                    self._expand(self._push(stack[:-1], (rule, alternative, index + 1)), after)
            readings = after
        return readings

    def matches(self, text: str) -> bool:
        return () in self.accept(self.start(), text)

    def next_chars(self, readings: set[Stack]) -> list[Chars]:
        """What may come next."""
        return [self._chars(stack[-1]) for stack in sorted(readings) if stack]

    def _chars(self, place: Place) -> Chars:
        rule, alternative, index = place
        element = self.rules[rule][alternative][index]
        assert isinstance(element, Chars)
        return element

    def _push(self, stack: Stack, place: Place) -> Stack:
        rule, alternative, index = place
        return (*stack, place) if index < len(self.rules[rule][alternative]) else stack

    def _expand(self, stack: Stack, into: set[Stack]) -> None:
        waiting, seen = [stack], {stack}
        while waiting:
            one = waiting.pop()
            element = self._element(one)
            if not isinstance(element, int):
                into.add(one)
                continue
            rule, alternative, index = one[-1]
            below = self._push(one[:-1], (rule, alternative, index + 1))
            for number in range(len(self.rules[element])):
                following = self._push(below, (element, number, 0))
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)

    def _element(self, stack: Stack) -> Element | None:
        if not stack:
            return None
        rule, alternative, index = stack[-1]
        return self.rules[rule][alternative][index]

    # ---- parsing -----------------------------------------------------------------------------

    def _id(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = self._add()
        return self._ids[name]

    def _add(self, *alternatives: tuple[Element, ...]) -> int:
        self.rules.append(list(alternatives))
        return len(self.rules) - 1

    def _tokenise(self, body: str) -> list[re.Match[str]]:
        tokens, position = [], 0
        while position < len(body.rstrip()):
            match = _TOKEN.match(body, position)
            assert match, f"no GBNF: {body[position : position + 40]!r}"
            tokens.append(match)
            position = match.end()
        return tokens[::-1]

    def _alternatives(self) -> list[tuple[Element, ...]]:
        found = [self._sequence()]
        while self._tokens and self._tokens[-1][5] == "|":
            self._tokens.pop()
            found.append(self._sequence())
        return found

    def _sequence(self) -> tuple[Element, ...]:
        done: list[Element] = []
        last: list[Element] = []
        while self._tokens and self._tokens[-1][5] not in ("|", ")"):
            literal, ranges, counts, name, sign = self._tokens.pop().groups()
            if counts or (sign and sign in "*+?"):
                bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign) or _counts(counts)
                last = self._repeat(last, *bounds)
                continue
            done += last
            if literal is not None:
                last = [Chars(((char, char),)) for char, _ in _characters(literal)]
            elif ranges is not None:
                last = [_class(ranges)]
            elif name:
                last = [self._id(name)]
            else:
                last = [self._add(*self._alternatives())]
                self._tokens.pop()
        return (*done, *last)

    def _repeat(self, item: list[Element], low: int, high: int | None) -> list[Element]:
        assert low <= 2000
        assert (high or 0) <= 2000
        tail: list[Element] = []
        if high is None:
            rule = self._add()
            self.rules[rule] = [(*item, rule), ()]
            tail = [rule]
        else:
            for _ in range(high - low):
                tail = [self._add((*item, *tail), ())]
        return [*(item * low), *tail]


def _counts(text: str) -> tuple[int, int | None]:
    low, comma, high = text[1:-1].partition(",")
    return int(low), int(high) if high else None if comma else int(low)


def _characters(text: str) -> list[tuple[str, bool]]:
    """The characters of a literal or class, and whether each was escaped."""
    found, position = [], 0
    while position < len(text):
        if match := _ESCAPE.match(text, position):
            found.append((chr(int(match[1], 16)) if match[1] else match[2], True))
            position = match.end()
        else:
            found.append((text[position], False))
            position += 1
    return found


def _class(text: str) -> Chars:
    is_negated = text.startswith("^")
    characters = _characters(text.removeprefix("^"))
    ranges, index = [], 0
    while index < len(characters):
        char = characters[index][0]
        if characters[index + 1 : index + 2] == [("-", False)] and index + 2 < len(characters):
            ranges.append((char, characters[index + 2][0]))
            index += 3
        else:
            ranges.append((char, char))
            index += 1
    return Chars(tuple(ranges), is_negated)
