"""The part of JSON Schema that results.schema.json uses, checked without the `jsonschema` package."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..io.counts import count
from ..io.json_fields import describe, shown

_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "null": (type(None), "null"),
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "string": (str, "a string"),
    "array": (list, "a list"),
    "object": (dict, "an object"),
}
_UNDERSTOOD = frozenset(
    {
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "type",
        "const",
        "enum",
        "anyOf",
        "required",
        "properties",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "minLength",
        "pattern",
    }
)


@dataclass(frozen=True)
class Violation:
    """What is wrong: the key as a path ("cells[0].load"), what was found there and what was expected, in words."""

    where: str
    found: str
    expected: str


def find_violation(data: object, schema: Mapping[str, Any]) -> Violation | None:
    """Return the first thing in `data` that `schema` does not allow, None if there is none.

    Raises ValueError if the schema uses a keyword that is not understood here, rather than ignoring it.
    """
    return _check(data, schema, schema, "")


def _check(value: object, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Violation | None:
    unknown = set(schema) - _UNDERSTOOD
    if unknown:
        raise ValueError(f"the schema uses {', '.join(sorted(unknown))}, which this checker does not understand")
    if "$ref" in schema:
        return _check(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "anyOf" in schema:
        found = [_check(value, option, root, where) for option in schema["anyOf"]]
        return None if None in found else found[-1]
    expected = _expected(value, schema)
    if expected is not None:
        return Violation(where or "the top level", describe(value), expected)
    if isinstance(value, dict):
        return _check_object(value, schema, root, where)
    if isinstance(value, list) and "items" in schema:
        items = (_check(item, schema["items"], root, f"{where}[{index}]") for index, item in enumerate(value))
        return next((found for found in items if found is not None), None)
    return None


def _check_object(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str
) -> Violation | None:
    prefix = f"{where}." if where else ""
    named: Mapping[str, Any] = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            return Violation(f"{prefix}{key}", "nothing", "the key to be present")
    for key, item in value.items():
        inner = named.get(key, schema.get("additionalProperties"))
        found = _check(item, inner, root, f"{prefix}{shown(key)}") if inner is not None else None
        if found is not None:
            return found
    return None


def _expected(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return what `value` itself, apart from what it holds, ought to be; None if it is that."""
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if types and not any(_is(value, name) for name in types):
        return " or ".join(_TYPES[name][1] for name in types)
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices is not None and not any(value == choice and _is_bool(value) == _is_bool(choice) for choice in choices):
        return " or ".join(repr(choice) for choice in choices)
    if _is(value, "number"):
        if value < schema.get("minimum", value):
            return f"at least {schema['minimum']}"
        if value > schema.get("maximum", value):
            return f"at most {schema['maximum']}"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            return "a string that is not empty"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return f"a string that matches {schema['pattern']}"
    if isinstance(value, list):
        min_items, max_items = schema.get("minItems", 0), schema.get("maxItems", len(value))
        if not min_items <= len(value) <= max_items:
            return (
                count(min_items, "item")
                if min_items == schema.get("maxItems")
                else f"at least {count(min_items, 'item')}"
            )
    return None


def _is(value: object, name: str) -> bool:
    if name != "boolean" and _is_bool(value):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    # 1.0 is a whole number in JSON Schema.
    return isinstance(value, _TYPES[name][0]) or (name == "integer" and isinstance(value, float) and value.is_integer())


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)
