"""Writes what a schema says in GBNF, llama.cpp's grammar language (its grammars/README.md).

One rule for each node, found again by the node's identity, so that recursion is a rule that names
itself. JSON comes out compact, with one space at most after a colon or comma: small models fill
pages with white space where they may.
"""

import json
from collections import deque

from agent.engine.schema.nodes import (
    Array,
    Concrete,
    Map,
    Member,
    Node,
    Object,
    Pattern,
    Shapes,
    Text,
    Word,
)
from agent.errors import BadRequest

MAX_BYTES = 64 << 10
# llama.cpp makes a rule of each optional repetition: 10,000 are parsed in 3 ms, into 0.7 MB.
MAX_REPETITIONS = 10_000
MAX_KEY = 64

# No \u escapes: raw UTF-8 says it all, and half a surrogate pair is no text.
_CHAR = r'[^"\\\x7F\x00-\x1F] | "\\" ["\\/bfnrt]'
_DATE = (
    '[1-9] [0-9]{3} "-" ('
    '("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_HOUR = '([01] [0-9] | "2" [0-3])'
_MINUTE = "[0-5] [0-9]"
_ZONE = f'("Z" | [+-] {_HOUR} ":" {_MINUTE})'
_TIME = f'{_HOUR} ":" {_MINUTE} ":" {_MINUTE} ("." [0-9]{{1,6}})? {_ZONE}'
# RFC 3339 and RFC 9562; no 29 February, which only some years have.
FORMATS = {
    name: f'"\\"" {body} "\\""'
    for name, body in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f'{_DATE} "T" {_TIME}',
        "uuid": ' "-" '.join(f"[0-9a-f]{{{count}}}" for count in (8, 4, 4, 4, 12)),
    }.items()
}


def literal(text: str) -> str:
    """A text as a GBNF string. It holds no control characters: JSON writes those as escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_grammar(root: Node, shapes: Shapes) -> str:
    """The grammar whose rule `root` is this node. Raises BadRequest when it gets too large."""
    return _Writer(shapes).write(root)


class _Writer:
    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._names: dict[int, str] = {}
        self._shared: dict[str, str] = {}
        self._rules: list[str] = []
        self._waiting: deque[tuple[str, Concrete]] = deque()
        self._num_bytes = 0
        self._num_repetitions = 0

    def write(self, root: Node) -> str:
        self._put("root", self._name(root))
        self._put("sp", '" "?')
        self._put("char", _CHAR)
        while self._waiting:
            name, node = self._waiting.popleft()
            self._put(name, self._body(node))
        return "".join(self._rules)

    def _put(self, name: str, body: str) -> None:
        rule = f"{name} ::= {body}\n"
        self._num_bytes += len(rule.encode())
        if self._num_bytes > MAX_BYTES:
            raise BadRequest(f"schema: makes a grammar of more than {MAX_BYTES} bytes; ask for less at once")
        self._rules.append(rule)

    def _share(self, body: str) -> str:
        """The name of the rule with this body, written when it is first needed."""
        name = self._shared.get(body)
        if name is None:
            name = self._shared[body] = f"s{len(self._shared)}"
            self._put(name, body)
        return name

    def _name(self, node: Node) -> str:
        """The name of a node's rule, which is written later: recursion in a schema is none here."""
        options = tuple(option for option in self._shapes.options(node) if self._shapes.ends(option))
        if len(options) != 1:
            return self._share(" | ".join(map(self._name, options)))
        (only,) = options
        name = self._names.get(id(only))
        if name is None:
            name = self._names[id(only)] = f"r{len(self._names)}"
            self._waiting.append((name, only))
        return name

    def _body(self, node: Concrete) -> str:
        match node:
            case Word():
                return literal(node.text)
            case Text():
                return f'"\\"" {self._repeat("char", node.low, node.high)} "\\""'
            case Pattern():
                return node.gbnf
            case Map():
                return self._map(node)
            case Array():
                return self._array(node)
            case Object():
                return self._object(node)

    def _map(self, node: Map) -> str:
        key = self._share(f'"\\"" {self._repeat("char", 1, MAX_KEY)} "\\""')
        if not self._shapes.ends(node.value):
            return '"{}"'
        pair = self._share(f'{key} ":" sp {self._name(node.value)}')
        return f'"{{" ({pair} ("," sp {pair})*)? "}}"'

    def _array(self, node: Array) -> str:
        first = ' "," sp '.join(map(self._name, node.first))
        if node.rest is None or node.high == 0 or not self._shapes.ends(node.rest):
            return f'"[" {first} "]"'
        item = self._name(node.rest)
        more = self._share(f'"," sp {item}')
        if first:
            return f'"[" {first} {self._repeat(more, node.low, node.high)} "]"'
        high = None if node.high is None else node.high - 1
        items = f"{item} {self._repeat(more, max(node.low - 1, 0), high)}"
        return f'"[" {items} "]"' if node.low else f'"[" ({items})? "]"'

    def _object(self, node: Object) -> str:
        """Properties in their order; from the last to the first, what may follow each is a rule."""
        members = [member for member in node.members if self._shapes.ends(member.node)]
        after_some, after_none = '"}"', '"}"'
        for member in reversed(members):
            pair = self._pair(member)
            rest = after_some if after_some == '"}"' else self._share(after_some)
            after_some = f'"," sp {pair} {rest}'
            if member.is_required:
                after_none = f"{pair} {rest}"
            else:
                after_some = f"{after_some} | {rest}"
                after_none = f"{pair} {rest} | {self._share(after_none)}"
        return f'"{{" ({after_none})'

    def _pair(self, member: Member) -> str:
        key = literal(json.dumps(member.name, ensure_ascii=False) + ":")
        return self._share(f"{key} sp {self._name(member.node)}")

    def _repeat(self, rule: str, low: int, high: int | None) -> str:
        self._num_repetitions += low if high is None else high
        if self._num_repetitions > MAX_REPETITIONS:
            raise BadRequest(
                f"schema: its lengths and counts add up to more than {MAX_REPETITIONS}; lower some of them"
            )
        if high is None:
            return f"{rule}{{{low},}}" if low else f"{rule}*"
        return f"{rule}{{{low},{high}}}" if high else ""
