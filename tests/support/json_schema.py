"""A validator for the part of JSON schema that answers are held to; for tests, by the specification."""

import re
from datetime import date
from fractions import Fraction
from typing import Any


def satisfies(value: Any, schema: Any, root: Any, met: tuple[str, ...] = ()) -> bool:
    """True when the value is valid. `root` is where references begin; `met` those that led to this value."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        if schema["$ref"] in met:
            return False  # it would only be valid because it is
        place = root
        for step in schema["$ref"].split("/")[1:]:
            place = place[step]
        return satisfies(value, place, root, (*met, schema["$ref"]))
    if "anyOf" in schema and not any(satisfies(value, one, root, met) for one in schema["anyOf"]):
        return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is_of(value, kind) for kind in types):
        return False
    match value:
        case dict():
            return _is_object(value, schema, root)
        case list():
            return _is_array(value, schema, root)
        case str():
            return _is_string(value, schema)
        case bool() | None:
            return True
        case _:
            return _is_within(Fraction(str(value)), schema)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _is_of(value: Any, kind: str) -> bool:
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "null":
            return value is None
    return isinstance(value, {"object": dict, "array": list, "string": str, "boolean": bool}[kind])


def _is_object(value: dict[str, Any], schema: Any, root: Any) -> bool:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return set(schema.get("required", [])) <= set(value) and all(
        satisfies(one, properties.get(name, others), root) for name, one in value.items()
    )


def _is_array(value: list[Any], schema: Any, root: Any) -> bool:
    first, rest = schema.get("prefixItems", []), schema.get("items", True)
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    return all(
        satisfies(one, first[index] if index < len(first) else rest, root) for index, one in enumerate(value)
    )


def _is_string(value: str, schema: Any) -> bool:
    if schema.get("format") == "date" and not _is_date(value):
        return False
    if schema.get("format") == "uuid" and not re.fullmatch(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value
    ):
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))


def _is_within(value: Fraction, schema: Any) -> bool:
    bounds = {key: Fraction(str(bound)) for key, bound in schema.items() if "imum" in key}
    return (
        bounds.get("minimum", value) <= value <= bounds.get("maximum", value)
        and value > bounds.get("exclusiveMinimum", value - 1)
        and value < bounds.get("exclusiveMaximum", value + 1)
    )


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True
