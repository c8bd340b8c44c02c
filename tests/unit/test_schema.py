"""Schemas become grammars that allow nothing else; hostile ones end in a sentence, soon."""

import json
import random
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.schema import MAX_TEXT_BYTES, to_grammar
from agent.engine.schema.gbnf import MAX_BYTES
from agent.engine.schema.nodes import MAX_WIDTH, Shapes
from agent.engine.schema.reader import Reader
from agent.errors import BadRequest
from tests.support.gbnf import Grammar
from tests.support.json_schema import satisfies

# Far above what any schema within the limits takes here, far below what anybody would call a hang.
SOON_S = 3.0


def grammar(schema: Any) -> Grammar:
    return Grammar(to_grammar(json.dumps(schema)))


def said(seed: int, rules: Grammar, max_chars: int = 200) -> str | None:
    """A random text of the grammar, or None when it did not end within so many characters."""
    draw = random.Random(seed)
    readings, text = rules.start(), ""
    for _ in range(max_chars):
        assert len(readings) <= MAX_WIDTH
        choices = rules.next_chars(readings)
        if not choices or (() in readings and draw.random() < 0.3):
            return text
        one = draw.choice(choices)
        low, high = ("a", "z") if one.is_negated else draw.choice(one.ranges)
        char = chr(draw.randint(ord(low), ord(high)))
        text += char
        readings = rules.accept(readings, char)
    return None


# ---- what is allowed -------------------------------------------------------------------------------

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}},
    "required": ["b"],
}
EXPRESSION = {
    "$ref": "#/$defs/e",
    "$defs": {
        "e": {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 9},
                {
                    "type": "object",
                    "properties": {"op": {"enum": ["+", "-"]}, "args": {"$ref": "#/$defs/args"}},
                    "required": ["op", "args"],
                },
                {
                    "type": "object",
                    "properties": {"op": {"const": "neg"}, "of": {"$ref": "#/$defs/e"}},
                    "required": ["op", "of"],
                },
            ]
        },
        "args": {"type": "array", "items": {"$ref": "#/$defs/e"}, "minItems": 2, "maxItems": 2},
    },
}


@pytest.mark.parametrize(
    ("schema", "allowed", "refused"),
    [
        ({"type": "boolean"}, ["true", "false"], ["True", "null", ""]),
        ({"type": ["string", "null"]}, ['"x"', "null"], ["1", "nul"]),
        ({"type": "string", "minLength": 1, "maxLength": 2}, ['"a"', '"\u20ac\\n"'], ['""', '"abc"', '"\n"']),
        ({"type": "string"}, ['""', '"\\"\\\\"', '"\U0001f999"'], ['"\\u0041"', '"a', "'a'"]),
        ({"type": "integer"}, ["0", "-7", "123456789012345"], ["01", "1.0", "1234567890123456", "+1"]),
        ({"type": "number"}, ["0", "-1.5", "1e5", "2.5E-3"], [".5", "1.", "1e500"]),
        ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, ["-3", "0", "11"], ["-4", "12", "-0"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "0.85", "1"], ["1.1", "-0.1", "2"]),
        ({"const": {"a": [1, "x"]}}, ['{"a":[1,"x"]}'], ['{"a": [1,"x"]}', "1"]),
        ({"enum": ["rain", "sun", 3, None]}, ['"rain"', "3", "null"], ['"ra"', '"snow"', "4"]),
        ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
        (OBJECT, ['{"b":true}', '{"a": 1, "b": false,"c":null}'], ["{}", '{"b":true,"a":1}', '{"b":true,}']),
        ({"type": "object", "properties": {}, "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({"type": "object"}, ["{}", '{"a": {"b": [1, "x", {}]}}'], ["[]", '{"a"}', "{,}"]),
        ({"additionalProperties": {"type": "integer"}}, ["{}", '{"x":1,"y":2}'], ['{"x":"1"}']),
        ({"type": "array", "items": {"type": "null"}}, ["[]", "[null, null]"], ["[1]", "[null,]"]),
        ({"items": {"type": "null"}, "minItems": 1, "maxItems": 2}, ["[null]", "[null,null]"], ["[]"]),
        ({"maxItems": 0}, ["[]"], ["[1]"]),
        (
            {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}},
            ['[1,"x"]', '[1,"x",null]'],
            ["[1]", '["x",1]', '[1,"x",2]'],
        ),
        ({"prefixItems": [{"type": "null"}], "items": False}, ["[null]"], ["[]", "[null,null]"]),
        ({"oneOf": [{"type": "integer"}, {"const": "no"}]}, ["1", '"no"'], ["true"]),
        ({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "null"}}, "title": "t"}, ["null"], ["1"]),
        ({"type": "array", "items": {"$ref": "#"}}, ["[]", "[[], [[]]]"], ["[1]", "[[]"]),
        (EXPRESSION, ['{"op":"+","args":[1,{"op":"neg","of":2}]}'], ['{"op":"neg","args":[1,2]}']),
        (
            {"type": "string", "format": "date"},
            ['"2024-02-28"', '"1999-12-31"'],
            ['"2024-02-30"', '"24-1-1"'],
        ),
        ({"format": "date-time"}, ['"2024-05-01T10:00:00Z"', '"2024-05-01T10:00:00.5+02:00"'], ['"now"']),
        ({"format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
        (True, ["1", '{"a":[]}'], ["", "x"]),
        ({"properties": {'q"\\\n\u20ac': {"const": 1}}}, ['{"q\\"\\\\\\n\u20ac":1}'], ['{"q":1}']),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"const": 1}}}, ["1"], ["2"]),
        ({"type": "null", "uniqueItems": False, "$schema": "x", "description": "d"}, ["null"], ["1"]),
    ],
)
def test_a_grammar_allows_what_the_schema_does_and_nothing_else(
    schema: Any, allowed: list[str], refused: list[str]
) -> None:
    """By example."""
    rules = grammar(schema)
    assert [text for text in allowed if not rules.matches(text)] == []
    assert [text for text in refused if rules.matches(text)] == []


def schemas(names: str = "abc") -> st.SearchStrategy[Any]:
    """Schemas that say something, with references, unions that begin alike and recursion among them."""
    leaves = st.sampled_from(
        [
            {"type": "integer", "minimum": -5, "maximum": 30},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
            {"type": "string", "maxLength": 3},
            {"type": "boolean"},
            {"type": "null"},
            {"const": "a"},
            {"enum": ["a", "ab", 1, [1]]},
            {"type": "string", "format": "date"},
            {"$ref": "#/$defs/x"},
            {"$ref": "#/$defs/y"},
        ]
    )

    def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.dictionaries(st.sampled_from(names), inner, min_size=1, max_size=3).flatmap(
            lambda properties: st.builds(
                lambda required: {"type": "object", "properties": properties, "required": sorted(required)},
                st.sets(st.sampled_from(sorted(properties))),
            )
        )

    return st.recursive(
        leaves,
        lambda inner: (
            objects(inner)
            | st.builds(lambda item, high: {"items": item, "maxItems": high}, inner, st.integers(0, 3))
            | st.builds(lambda first, item: {"prefixItems": [first], "items": item}, inner, inner)
            | st.builds(lambda value: {"type": "object", "additionalProperties": value}, inner)
            | st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=4))
        ),
        max_leaves=12,
    )


@given(schemas(), schemas(), schemas(), st.integers(0, 1000))
def test_whatever_a_grammar_says_satisfies_the_schema(root: Any, x: Any, y: Any, seed: int) -> None:
    """Random texts of random grammars, judged by a validator of its own; never too many readings."""
    schema = {"anyOf": [root], "$defs": {"x": x, "y": y}}
    try:
        rules = grammar(schema)
    except BadRequest as refusal:
        assert "begin alike" in refusal.message or "for ever" in refusal.message
        return
    text = said(seed, rules)
    if text is not None:
        assert satisfies(json.loads(text), schema, schema), text


@given(schemas(), schemas(), schemas(), st.integers(0, 1000))
def test_readings_are_counted_beforehand(root: Any, x: Any, y: Any, seed: int) -> None:
    """What llama.cpp would have to follow at once stays within the width."""
    tree = {"anyOf": [root], "$defs": {"x": x, "y": y}}
    reader = Reader(tree)
    reader.read_all()
    try:
        width = Shapes(reader.targets).width
        rules = grammar(tree)
    except BadRequest:
        return
    draw, readings = random.Random(seed), rules.start()
    for _ in range(60):
        assert len(readings) <= width + 4
        if not (choices := rules.next_chars(readings)):
            return
        one = draw.choice(choices)
        readings = rules.accept(readings, "a" if one.is_negated else one.ranges[0][0])


numbers = st.integers(-2000, 2000) | st.decimals(-100, 100, places=2).map(float)


@given(
    st.sampled_from(["integer", "number"]),
    st.dictionaries(
        st.sampled_from(["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"]), numbers, max_size=3
    ),
    st.lists(numbers, max_size=20),
)
def test_numbers_keep_to_their_bounds(kind: str, bounds: dict[str, float], values: list[float]) -> None:
    """Exactly those between the bounds, the bounds themselves and their neighbours among them."""
    schema = {"type": kind, **bounds}
    exact = {keyword: Fraction(str(bound)) for keyword, bound in bounds.items()}
    try:
        rules = grammar(schema)
    except BadRequest as refusal:
        assert "lies between" in refusal.message
        return
    near = [Fraction(str(value)) for value in values]
    near += [bound + Fraction(step, 100) for bound in exact.values() for step in (-1, 0, 1)]
    for value in near:
        text = str(int(value)) if value.denominator == 1 else str(float(value))
        if kind == "integer" and value.denominator > 1:
            continue
        is_inside = (
            value >= exact.get("minimum", value)
            and value <= exact.get("maximum", value)
            and value > exact.get("exclusiveMinimum", value - 1)
            and value < exact.get("exclusiveMaximum", value + 1)
        )
        assert rules.matches(text) is is_inside, (schema, text)


# ---- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "string", "pattern": "^a"}, "schema.pattern: is not supported"),
        ({"properties": {"a": {"not": {}}}}, "schema.properties.a.not: is not supported"),
        ({"items": {"multipleOf": 2}}, "schema.items.multipleOf: is not supported"),
        ({"items": {"uniqueItems": True}}, "schema.items.uniqueItems: is not supported"),
        ({"if": {}, "then": {}}, "schema.if: is not supported"),
        ({"patternProperties": {}}, "schema.patternProperties: is not supported"),
        ({"requird": ["a"]}, "schema.requird: is not supported"),
        ({"pattern": None}, "schema.pattern: is not supported"),
        ({"format": "email"}, "schema.format: 'email' is not supported; there are date, time"),
        ({"type": "text"}, "schema.type: 'text' is no type"),
        ({"type": []}, "schema.type: must name"),
        ({"type": [["string"]]}, "schema.type"),
        ({"enum": []}, "schema.enum: must be a list"),
        ({"type": "integer", "enum": ["a"]}, "schema.enum: has no value of the type"),
        ({"enum": ["a"], "maxLength": 3}, "schema.maxLength: cannot stand beside enum"),
        ({"anyOf": [], "type": "object"}, "schema.type: cannot stand beside anyOf"),
        ({"anyOf": []}, "schema.anyOf: must be a list"),
        ({"anyOf": [{"type": "null"}, 3]}, r"schema.anyOf\[1\]: must be a schema"),
        ({"allOf": [{}, {}]}, "schema.allOf: is supported with one schema only"),
        ({"properties": {"a": False}}, "schema.properties.a: false allows nothing"),
        ({"properties": []}, "schema.properties: must be an object"),
        ({"type": "object", "required": ["a"]}, "schema.required: 'a' is not one of the properties"),
        ({"required": "a"}, "schema.required: must be a list of names"),
        ({"minLength": -1}, "schema.minLength: must be a whole number"),
        ({"minLength": True}, "schema.minLength: must be a whole number"),
        ({"minLength": 2001}, "schema.minLength: more than 2000"),
        ({"minLength": 2, "maxLength": 1}, "schema.maxLength: is less than minLength"),
        ({"format": "date", "maxLength": 3}, "schema.format: cannot stand beside"),
        ({"minimum": "0"}, "schema.minimum: must be a number"),
        ({"exclusiveMinimum": True}, "schema.exclusiveMinimum: must be a number"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "schema: no number"),
        ({"minimum": 10**16}, "schema: no number of at most 15 digits"),
        ({"prefixItems": [{}], "maxItems": 0}, "schema.maxItems: is less than prefixItems"),
        ({"prefixItems": [{}], "items": False, "minItems": 2}, "schema.minItems: is more than prefixItems"),
        ({"items": [{}]}, "schema.items: must be a schema"),
        ({"$ref": "https://example.org/schema.json"}, r"schema.\$ref: must refer to a place in this schema"),
        ({"$ref": "other.json#/a"}, r"schema.\$ref: must refer"),
        ({"$ref": "#/$defs/none"}, r"schema.\$ref: there is no '#/\$defs/none'"),
        ({"$ref": "#"}, "for ever"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "for ever"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "for ever"),
        ([], "schema: must be a schema"),
        ("{}", "schema: must be a schema"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(schema: Any, sentence: str) -> None:
    """One sentence that says where."""
    with pytest.raises(BadRequest, match=sentence):
        to_grammar(json.dumps(schema))


def doubling(depth: int) -> dict[str, Any]:
    """Two alternatives at each level that only the innermost value tells apart."""
    definitions: dict[str, Any] = {f"d{depth}": {"type": "integer"}}
    for level in range(depth):
        inner = {"$ref": f"#/$defs/d{level + 1}"}
        options = [{"prefixItems": [inner, {"const": number}]} for number in range(2)]
        definitions[f"d{level}"] = {"anyOf": options}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def chain(length: int, *, backwards: bool) -> dict[str, Any]:
    """Definitions that each hold the next."""
    order = range(length)[::-1] if backwards else range(length)
    return {
        "$ref": "#/$defs/0",
        "$defs": {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in order} | {str(length): {}},
    }


HOSTILE: dict[str, str] = {
    "braces": '{"items":' * 3_000,
    "brackets": "[" * 16_000,
    "parentheses": json.dumps({"const": "(" * 15_000}),
    "long": json.dumps({"description": "x" * MAX_TEXT_BYTES}),
    "deep": '{"items":' * 70 + "{}" + "}" * 70,
    "deep value": '{"const":' + "[" * 500 + "]" * 500 + "}",
    "huge number": '{"const":' + "9" * 5_000 + "}",
    "infinite": '{"minimum":1e400}',
    "no text": '{"const":"\\ud800"}',
    "repetitions": json.dumps({"properties": {str(n): {"maxLength": 1900 + n} for n in range(50)}}),
    "nodes": json.dumps({"anyOf": [{"type": "null"}] * 1001}),
    "references": json.dumps({"anyOf": [{"$ref": f"#/anyOf/{n}"} for n in range(500)]}),
    "bounds": json.dumps({"anyOf": [{"minimum": -1.234567, "maximum": 1e14 + n} for n in range(300)]}),
    "doubling": json.dumps(doubling(40)),
    "recursion": json.dumps({"anyOf": [{"items": {"$ref": "#"}}, {"minItems": 1, "items": {"$ref": "#"}}]}),
    "alike": json.dumps({"enum": [f"w{n}" for n in range(600)]}),
    "escapes": json.dumps({"enum": ['"\\' * 4_000]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_ends_in_a_sentence_soon(name: str) -> None:
    """Or in a grammar within the limits."""
    started = time.monotonic()
    try:
        text = to_grammar(HOSTILE[name])
    except BadRequest as refusal:
        assert refusal.message.startswith("schema")
        assert len(refusal.message) < 300
    else:
        assert name in ("parentheses", "references", "escapes")
        assert len(text.encode()) <= MAX_BYTES
        Grammar(text)
    assert time.monotonic() - started < SOON_S


@pytest.mark.parametrize("schema", [chain(90, backwards=True), chain(90, backwards=False), doubling(5)])
def test_what_is_merely_large_is_taken(schema: Any) -> None:
    """Long chains of references, some ambiguity."""
    started = time.monotonic()
    grammar(schema)
    assert time.monotonic() - started < SOON_S


KEYS = st.sampled_from(
    [
        *("type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems"),
        *("maxItems", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "minLength", "format"),
        *("maxLength", "minimum", "maximum", "exclusiveMinimum", "title", "pattern"),
    ]
)
WORDS = st.sampled_from(
    ["object", "array", "string", "integer", "number", "null", "#", "#/$defs/a", "#/$defs", "date", "a"]
)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3000)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | WORDS, inner, max_size=5),
    max_leaves=25,
)


@given(ANY)
def test_any_json_is_a_grammar_or_a_bad_request(tree: Any) -> None:
    """Nothing else comes out, and it does not take long."""
    started = time.monotonic()
    try:
        text = to_grammar(json.dumps(tree))
    except BadRequest as refusal:
        assert refusal.message.startswith("schema")
    else:
        assert Grammar(text).start()
    assert time.monotonic() - started < SOON_S


@given(
    st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape"))
)
def test_any_text_is_a_grammar_or_a_bad_request(text: str) -> None:
    """Also what is no JSON, or no text at all."""
    try:
        to_grammar(text)
    except BadRequest as refusal:
        assert refusal.message.startswith("schema")
