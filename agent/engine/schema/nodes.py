"""What a JSON schema says once it is read, and what must be known of it before a grammar is written.

llama.cpp follows every reading of the text so far at the same time, one pushdown stack each, and
bounds none of it: two alternatives that begin alike, each holding the schema again, double the
stacks with every level. `Shapes` counts them beforehand.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.engine.schema.numbers import number
from agent.errors import BadRequest

# Readings that may be followed at once: 450, an enum of so many words, cost 3 ms a token here.
MAX_WIDTH = 500
# Rounds in which widths must settle; each follows a chain of references one step further.
MAX_ROUNDS = 64
# Alternatives of all places together, those of what they refer to included.
MAX_OPTIONS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """Exactly this JSON text: an enum's or a const's value."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A string of so many code points."""

    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A number or a string of a known form, already in GBNF; `begins` is `"`, or 0 for numbers."""

    gbnf: str
    begins: str

    @property
    def width(self) -> int:
        """The most readings it can have at once: of each alternative one, and a few for what is optional."""
        return self.gbnf.count("|") + 4


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One property of an object."""

    name: str
    node: "Node"
    is_required: bool


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """An object with these properties, in this order."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """An object with any names and values of one kind."""

    value: "Node"


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """These items, and after them `low` to `high` of `rest`."""

    first: tuple["Node", ...]
    rest: "Node | None" = None
    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Union:
    """One of these."""

    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ref:
    """What another place of the schema says; `target` is a key of the table of targets."""

    target: str


Leaf = Word | Text | Pattern
Concrete = Leaf | Object | Map | Array
Node = Concrete | Union | Ref

_SCALARS: tuple[Leaf, ...] = (Text(), Pattern(number(), "0"), Word("true"), Word("false"), Word("null"))


def anything(depth: int) -> Node:
    """Any JSON value with at most `depth` objects and arrays inside each other."""
    node = Union(_SCALARS)
    for _ in range(depth):
        node = Union((*_SCALARS, Map(node), Array((), node)))
    return node


class Shapes:
    """Answers about nodes, with the references between them followed.

    Nothing here recurses through references; tables are filled until they change no more, what was
    referred to last first: it is what the others are made of.
    """

    def __init__(self, targets: dict[str, Node]) -> None:
        """Raises BadRequest when the readings of a text could become too many."""
        self._targets = targets
        self._options: dict[int, tuple[Concrete, ...]] = {}
        self._num_options = 0
        self._ends = dict.fromkeys(targets, False)
        self._settle_ends()
        self.width = _Widths(targets, self.options).settle()

    def options(self, node: Node) -> tuple[Concrete, ...]:
        """The alternatives a node comes down to; none for one that only refers to itself."""
        known = self._options.get(id(node))
        if known is None:
            known = self._options[id(node)] = tuple(self._flatten(node))
            self._num_options += len(known)
            if self._num_options > MAX_OPTIONS:
                raise BadRequest(f"schema: its alternatives add up to more than {MAX_OPTIONS}; give fewer")
        return known

    def ends(self, node: Node) -> bool:
        """True when some finite text satisfies the node."""
        match node:
            case Ref():
                return self._ends[node.target]
            case Union():
                return any(map(self.ends, node.options))
            case Object():
                return all(self.ends(member.node) for member in node.members if member.is_required)
            case Array():
                needed = (*node.first, node.rest) if node.low and node.rest else node.first
                return all(map(self.ends, needed))
            case _:
                return True

    def _flatten(self, node: Node) -> Iterable[Concrete]:
        seen: set[int] = set()
        words: set[str] = set()
        waiting: list[Node] = [node]
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, Ref):
                waiting.append(self._targets[one.target])
            elif isinstance(one, Union):
                waiting += reversed(one.options)
            elif not isinstance(one, Word) or one.text not in words:
                if isinstance(one, Word):
                    words.add(one.text)
                yield one

    def _settle_ends(self) -> None:
        is_settled = False
        while not is_settled:
            is_settled = True
            for target, node in reversed(self._targets.items()):
                if not self._ends[target] and self.ends(node):
                    self._ends[target], is_settled = True, False


class _Widths:
    """How many readings of a text may be alive at once inside each node."""

    def __init__(self, targets: dict[str, Node], options: Callable[[Node], tuple[Concrete, ...]]) -> None:
        self._options = options
        self._nodes = {target: list(_inside(node)) for target, node in targets.items()}
        self._known = {id(node): 1 for nodes in self._nodes.values() for node in nodes}
        self._groups: dict[int, list[tuple[bool, list[Concrete]]]] = {}

    def settle(self) -> int:
        """The largest width of all. Raises BadRequest when one is more than MAX_WIDTH, or has no end."""
        for _ in range(MAX_ROUNDS):
            is_settled = True
            for target, nodes in reversed(self._nodes.items()):
                for node in nodes:
                    width = self._measure(node)
                    is_settled &= width == self._known[id(node)]
                    self._known[id(node)] = width
                    if width > MAX_WIDTH:
                        raise _too_ambiguous(target)
            if is_settled:
                return max(self._known.values())
        raise _too_ambiguous("its references")

    def _measure(self, node: Node) -> int:
        match node:
            case Union() | Ref():
                return self._of_alternatives(node)
            case Object():
                return max(_longest_choice(node), *(self._width(member.node) for member in node.members), 1)
            case Map():
                return max(_WIDTH_OF_TEXT, self._width(node.value))
            case Array():
                return max(1, *map(self._width, _items(node)), 1)
            case Text():
                return _WIDTH_OF_TEXT
            case _:
                return _head_width(node)

    def _width(self, node: Node) -> int:
        return self._known[id(node)]

    def _of_alternatives(self, node: Node) -> int:
        """Alternatives that begin alike stay alive together, unless their first property tells them apart."""
        if id(node) not in self._groups:
            self._groups[id(node)] = self._grouped(node)
        groups = self._groups[id(node)]
        at_start = sum(self._head_of(option) for _, options in groups for option in options)
        inside = (
            (max if is_told_apart else sum)(map(self._width, options)) for is_told_apart, options in groups
        )
        return max(at_start, *inside, 1)

    def _grouped(self, node: Node) -> list[tuple[bool, list[Concrete]]]:
        kinds: dict[str, list[Concrete]] = {}
        for option in self._options(node):
            kinds.setdefault(_kind(option), []).append(option)
        return [(self._are_told_apart(options), options) for options in kinds.values()]

    def _head_of(self, node: Concrete) -> int:
        if isinstance(node, Object):
            return 1 + sum(len(values) for _, values in self._heads(node))
        return _head_width(node)

    def _are_told_apart(self, options: list[Concrete]) -> bool:
        """True when no two of these objects can begin with the same property and value."""
        if len(options) == 1:
            return True
        seen: dict[str, set[str | None]] = {}
        for option in options:
            if not isinstance(option, Object):
                return False
            for name, values in self._heads(option):
                others = seen.setdefault(name, set())
                if others and (None in others or None in values or not others.isdisjoint(values)):
                    return False
                others |= values
        return True

    def _heads(self, node: Object) -> Iterable[tuple[str, set[str | None]]]:
        """The properties an object may begin with, each with its values; None stands for many."""
        for member in node.members:
            options = self._options(member.node)
            words = {option.text for option in options if isinstance(option, Word)}
            is_listed = all(isinstance(option, Word) for option in options)
            yield member.name, {*words} if is_listed else {None}
            if member.is_required:
                return


_WIDTH_OF_TEXT = 4


def _inside(node: Node) -> Iterable[Node]:
    """The node and all it is made of, parts first."""
    found: dict[int, Node] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            match one:
                case Union():
                    waiting += one.options
                case Object():
                    waiting += (member.node for member in one.members)
                case Map():
                    waiting.append(one.value)
                case Array():
                    waiting += _items(one)
    return reversed(found.values())


def _items(node: Array) -> tuple[Node, ...]:
    return node.first if node.rest is None else (*node.first, node.rest)


def _head_width(node: Concrete) -> int:
    return node.width if isinstance(node, Pattern) else 1


def _longest_choice(node: Object) -> int:
    """The longest run of properties of which any may come next, and the end."""
    longest = run = 0
    for member in node.members:
        run += 1
        longest = max(longest, run)
        if member.is_required:
            run = 0
    return longest + 1


def _kind(node: Concrete) -> str:
    """What the node's text begins with: `{`, `[`, `"`, 0 for a number, or a letter."""
    match node:
        case Word():
            return "0" if node.text[0] in "-0123456789" else node.text[0]
        case Text():
            return '"'
        case Pattern():
            return node.begins
        case Object() | Map():
            return "{"
        case Array():
            return "["


def _too_ambiguous(target: str) -> BadRequest:
    return BadRequest(
        f"schema: at {target[:80]} too many alternatives begin alike;"
        " give each a first property that tells it from the others"
    )
