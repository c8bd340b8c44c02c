"""Reads JSON schemas into nodes; schema.py says which part of the language."""

from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec

from agent.engine.schema.gbnf import FORMATS, MAX_BYTES
from agent.engine.schema.nodes import (
    Array,
    Map,
    Member,
    Node,
    Object,
    Pattern,
    Ref,
    Text,
    Union,
    Word,
    anything,
)
from agent.engine.schema.numbers import MAX_DIGITS, Bound, number, whole
from agent.errors import BadRequest

MAX_NODES = 1000
MAX_TARGETS = 100
# llama.cpp reads a larger repetition as one without end.
MAX_REPEAT = 2000
FREE_DEPTH = 4

ROOT = "schema"
_ANYTHING = anything(FREE_DEPTH)
_BOOLEAN = Union((Word("true"), Word("false")))
_NULL = Word("null")

ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions"),
    }
)
KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
}
# Values with which an unsupported keyword asks for nothing.
HARMLESS: dict[str, Any] = {"uniqueItems": False, "minProperties": 0, "nullable": False}
_COMBINERS = frozenset({"$ref", "const", "enum", "anyOf", "oneOf", "allOf"})
_KNOWN = ANNOTATIONS | _COMBINERS | {"type"} | frozenset().union(*KEYWORDS.values())


class Reader:
    """Turns schemas into nodes. `targets` holds the root, as `#`, and whatever is referred to."""

    def __init__(self, tree: Any) -> None:
        self.targets: dict[str, Node] = {}
        self._tree = tree
        self._num_nodes = self._num_bytes = 0
        self._waiting: deque[tuple[str, str, Any]] = deque()
        self._known: set[str] = set()

    def read_all(self) -> Node:
        """The root; what it refers to is read as well."""
        root = self._refer("#", ROOT)
        while self._waiting:
            target, path, schema = self._waiting.popleft()
            self.targets[target] = self._read(schema, path)
        return root

    def _read(self, schema: Any, path: str) -> Node:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise BadRequest(f"{path}: is one of more than {MAX_NODES} schemas in one; ask for less at once")
        if schema is True:
            return _ANYTHING
        if schema is False:
            raise BadRequest(f"{path}: false allows nothing")
        if not isinstance(schema, dict):
            raise BadRequest(f"{path}: must be a schema, which is an object")
        for keyword in schema:
            if keyword not in _KNOWN and HARMLESS.get(keyword, schema) is not schema[keyword]:
                raise BadRequest(f"{_at(path, keyword)}: is not supported; leave it out")
        for keyword, read in self._combiners.items():
            if keyword in schema:
                return read(self, schema, keyword, path)
        return self._read_types(schema, path)

    # ---- references and combinations ---------------------------------------------------------

    def _read_ref(self, schema: dict[str, Any], keyword: str, path: str) -> Node:
        _stands_alone(schema, keyword, path)
        return self._refer(schema[keyword], _at(path, keyword))

    def _refer(self, pointer: Any, path: str) -> Ref:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise BadRequest(f"{path}: must refer to a place in this schema, as #/$defs/name does")
        steps = [unquote(step).replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
        place, place_path = self._tree, ROOT
        for step in steps:
            place_path = _at(place_path, step)
            if isinstance(place, dict) and step in place:
                place = place[step]
            elif isinstance(place, list) and step.isdecimal() and len(step) < 5 and int(step) < len(place):
                place = place[int(step)]
            else:
                raise BadRequest(f"{path}: there is no {_short(pointer)} in this schema")
        if pointer not in self._known:
            if len(self._known) == MAX_TARGETS:
                raise BadRequest(f"{path}: is one more than the {MAX_TARGETS} places that may be referred to")
            self._known.add(pointer)
            self._waiting.append((pointer, place_path, place))
        return Ref(pointer)

    def _read_const(self, schema: dict[str, Any], keyword: str, path: str) -> Node:
        return self._words(schema, [schema[keyword]], keyword, path)

    def _read_enum(self, schema: dict[str, Any], keyword: str, path: str) -> Node:
        values = schema[keyword]
        if not isinstance(values, list) or not values:
            raise BadRequest(f"{_at(path, keyword)}: must be a list with at least one value")
        return self._words(schema, values, keyword, path)

    def _words(self, schema: dict[str, Any], values: list[Any], keyword: str, path: str) -> Node:
        _stands_alone(schema, keyword, path, "type")
        types = _types(schema, path)
        words = [Word(_compact(value)) for value in values if not types or _is_of(value, types)]
        if not words:
            raise BadRequest(f"{_at(path, keyword)}: has no value of the type that stands beside it")
        return Union(tuple(words))

    def _read_any_of(self, schema: dict[str, Any], keyword: str, path: str) -> Node:
        _stands_alone(schema, keyword, path)
        return Union(tuple(self._read_list(schema, keyword, path)))

    def _read_all_of(self, schema: dict[str, Any], keyword: str, path: str) -> Node:
        _stands_alone(schema, keyword, path)
        options = self._read_list(schema, keyword, path)
        if len(options) != 1:
            raise BadRequest(f"{_at(path, keyword)}: is supported with one schema only; write them as one")
        return options[0]

    def _read_list(self, schema: dict[str, Any], keyword: str, path: str) -> list[Node]:
        where, schemas = _at(path, keyword), schema[keyword]
        if not isinstance(schemas, list) or not schemas:
            raise BadRequest(f"{where}: must be a list with at least one schema")
        return [self._read(one, f"{where}[{index}]") for index, one in enumerate(schemas)]

    _combiners: ClassVar[dict[str, Callable[["Reader", dict[str, Any], str, str], Node]]] = {
        "$ref": _read_ref,
        "const": _read_const,
        "enum": _read_enum,
        "anyOf": _read_any_of,
        "oneOf": _read_any_of,
        "allOf": _read_all_of,
    }

    # ---- types -------------------------------------------------------------------------------

    def _read_types(self, schema: dict[str, Any], path: str) -> Node:
        types = _types(schema, path) or [
            kind for kind, words in KEYWORDS.items() if not words.isdisjoint(schema)
        ]
        if not types:
            return _ANYTHING
        if len(types) == 1:
            return self._read_type(types[0], schema, path)
        return Union(tuple(self._read_type(kind, schema, path) for kind in types))

    def _read_type(self, kind: str, schema: dict[str, Any], path: str) -> Node:
        match kind:
            case "object":
                return self._read_object(schema, path)
            case "array":
                return self._read_array(schema, path)
            case "string":
                return _string(schema, path)
            case "boolean":
                return _BOOLEAN
            case "null":
                return _NULL
            case _:
                return self._read_number(schema, path, whole if kind == "integer" else number)

    def _read_object(self, schema: dict[str, Any], path: str) -> Node:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise BadRequest(f"{path}.properties: must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise BadRequest(f"{path}.required: must be a list of names")
        for name in required:
            if name not in properties:
                raise BadRequest(f"{path}.required: {_short(name)} is not one of the properties")
        if not properties and schema.get("additionalProperties") is not False:
            return Map(self._read(schema.get("additionalProperties", True), f"{path}.additionalProperties"))
        needed = frozenset(required)
        return Object(
            tuple(
                Member(name, self._read(value, _at(f"{path}.properties", name)), name in needed)
                for name, value in properties.items()
            )
        )

    def _read_array(self, schema: dict[str, Any], path: str) -> Node:
        first, items = schema.get("prefixItems", []), schema.get("items", "prefixItems" not in schema)
        low, high = _range(schema, "minItems", "maxItems", path)
        if not isinstance(first, list):
            raise BadRequest(f"{path}.prefixItems: must be a list of schemas")
        if high is not None and high < len(first):
            raise BadRequest(f"{path}.maxItems: is less than prefixItems has")
        if low > len(first) and items is False:
            raise BadRequest(f"{path}.minItems: is more than prefixItems has, and items allows no others")
        head = tuple(self._read(one, f"{path}.prefixItems[{index}]") for index, one in enumerate(first))
        if items is False or high == len(first):
            return Array(head)
        rest = self._read(items, f"{path}.items")
        return Array(head, rest, max(low - len(first), 0), None if high is None else high - len(first))

    def _read_number(self, schema: dict[str, Any], path: str, write: Callable[[Bound, Bound], str]) -> Node:
        low = _bound(schema, "minimum", "exclusiveMinimum", path, max)
        high = _bound(schema, "maximum", "exclusiveMaximum", path, min)
        gbnf = write(low, high)
        if not gbnf:
            raise BadRequest(f"{path}: no number of at most {MAX_DIGITS} digits lies between its bounds")
        self._num_bytes += len(gbnf)
        if self._num_bytes > MAX_BYTES:
            raise BadRequest(f"{path}: with its bounds the grammar gets too large; give rounder ones")
        return Pattern(gbnf, "0")


def _types(schema: dict[str, Any], path: str) -> list[str]:
    given = schema.get("type", [])
    types = given if isinstance(given, list) else [given]
    if "type" in schema and not types:
        raise BadRequest(f"{path}.type: must name at least one type")
    for kind in types:
        if kind not in ("object", "array", "string", "number", "integer", "boolean", "null"):
            raise BadRequest(f"{path}.type: {_short(kind)} is no type of JSON schema")
    return list(dict.fromkeys(types))


def _is_of(value: Any, types: list[str]) -> bool:
    match value:
        case bool():
            return "boolean" in types
        case None:
            return "null" in types
        case str():
            return "string" in types
        case list():
            return "array" in types
        case dict():
            return "object" in types
        case _:
            return "number" in types or ("integer" in types and value == int(value))


def _string(schema: dict[str, Any], path: str) -> Node:
    low, high = _range(schema, "minLength", "maxLength", path)
    form = schema.get("format")
    if form is None:
        return Text(low, high)
    if not isinstance(form, str) or form not in FORMATS:
        known = ", ".join(FORMATS)
        raise BadRequest(f"{path}.format: {_short(form)} is not supported; there are {known}")
    if low or high is not None:
        raise BadRequest(f"{path}.format: cannot stand beside minLength and maxLength here")
    return Pattern(FORMATS[form], '"')


def _bound(
    schema: dict[str, Any], closed: str, opened: str, path: str, choose: Callable[..., Fraction]
) -> Bound:
    """The stricter of two keywords, and whether the value itself is excluded."""
    values = {}
    for keyword in (closed, opened):
        if keyword in schema:
            if isinstance(schema[keyword], bool) or not isinstance(schema[keyword], int | float):
                raise BadRequest(f"{_at(path, keyword)}: must be a number")
            # By way of its decimal form: 0.1 means a tenth, not the double next to it.
            values[keyword] = Fraction(str(schema[keyword]))
    if not values:
        return None
    strictest = choose(values.values())
    return strictest, values.get(opened) == strictest


def _range(schema: dict[str, Any], least: str, most: str, path: str) -> tuple[int, int | None]:
    """The bounds of a length. More than MAX_REPEAT at most means MAX_REPEAT."""
    for keyword in (least, most):
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadRequest(f"{_at(path, keyword)}: must be a whole number from 0")
    low, high = schema.get(least, 0), schema.get(most)
    if low > MAX_REPEAT:
        raise BadRequest(f"{_at(path, least)}: more than {MAX_REPEAT} cannot be asked for")
    if high is not None and high < low:
        raise BadRequest(f"{_at(path, most)}: is less than {least}")
    return low, None if high is None else min(high, MAX_REPEAT)


def _stands_alone(schema: dict[str, Any], keyword: str, path: str, *companions: str) -> None:
    for other in schema:
        if (
            other != keyword
            and other not in ANNOTATIONS
            and other not in companions
            and other not in HARMLESS
        ):
            raise BadRequest(f"{_at(path, other)}: cannot stand beside {keyword} here; leave one of them out")


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _at(path: str, step: str) -> str:
    """The path of a place in messages; long names are cut."""
    return f"{path}.{step if len(step) <= 40 else step[:37] + '...'}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
