"""The page of the manifest's keys, from docs/manifest.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.generator.commands import escaped

SCHEMA = Path(__file__).parents[1] / "manifest.schema.json"
_HEAD = """# manifest.json

The keys of a bundle's manifest, as [the JSON Schema](manifest.schema.json) has them. What the files are is told in
[The bundle](../bundle.md).
"""


def page() -> str:
    """Return the page: a table for the manifest, and one for each object in it."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    lines = [_HEAD, escaped(schema["description"]), "", *_table(schema)]
    for definition in schema["$defs"].values():
        if "properties" in definition:
            lines += [f"## {definition['title']}", "", escaped(definition["description"]), "", *_table(definition)]
    return "\n".join(lines) + "\n"


def _table(schema: dict[str, Any]) -> Iterator[str]:
    yield "| key | is | meaning |"
    yield "| --- | --- | --- |"
    for key, value in schema["properties"].items():
        optional = "" if key in schema.get("required", ()) else ", optional"
        yield f"| `{key}` | {_kind(value)}{optional} | {escaped(value.get('description', ''))} |"
    yield ""


def _kind(schema: dict[str, Any]) -> str:
    """Return in words what a value may be; objects with a table of their own are links to it."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(option) for option in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {
            "name": "string",
            "sha256": "64 hexadecimal digits",
            "batch": "three integers",
        }.get(name, f"[{name}](#{name})")
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    kind = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if kind == "array" and "items" in schema:
        return f"array of {_kind(schema['items'])}"
    if "maximum" in schema:
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"{kind} of {_kind(schema['additionalProperties'])}"
    return kind
