"""Tables of TOML into dataclasses and back, with every key and every value's kind checked."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from coda_deploy.errors import ConfigError

T = TypeVar("T")
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def read_section(cls: type[T], table: Any, source: str) -> T:
    """Read ``table`` as a dataclass whose fields are bool, int, float, str, a tuple of one of them, or several such.

    A field, or the items of its tuple, may also be a tuple or something else.

    Raises ``ConfigError`` naming an unknown key and the nearest known one, or a value of a wrong kind.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source} is {table!r}, expected a table")
    known = {f.name: get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(unknown(source, key, known, "key"))
        values[key] = _checked(value, known[key], f"{source}.{key}")
    return cls(**values)


def unknown(source: str, key: str, known: Iterable[str], kind: str) -> str:
    """Return what to say of a key that is not ``known``."""
    near = difflib.get_close_matches(key, list(known), 1, cutoff=0.0)
    return f"{source} has an unknown {kind} {key!r}; the nearest known one is {near[0]!r}"


def plain(value: Any) -> Any:
    """Return the value as TOML and JSON have it."""
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write tables of plain values as the text of a TOML file."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {literal(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


def _checked(value: Any, kind: Any, where: str) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if _is_tuple(kind):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}, expected a list")
        return tuple(_checked(item, options[0], where) for item in value)
    if len(options) > 1:  # a list, or what is none
        listed = isinstance(value, (list, tuple))
        return _checked(value, next(option for option in options if _is_tuple(option) == listed), where)
    wanted = kind if isinstance(kind, type) else options[0]
    if wanted is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{where} is {value!r}, expected {_EXPECTED[wanted]}")
    if isinstance(value, str) and not _is_unicode(value):
        raise ConfigError(f"{where} is {value!r}, which is not UTF-8: rename what it stands for")
    return value


def _is_tuple(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is tuple


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # the stand-ins for a file name's bytes that are not UTF-8
        return False
    return True


def literal(value: Any) -> str:
    """Write a plain value as TOML has it, in one line."""
    # JSON's numbers, booleans and lists are TOML's, and its strings but for pairs such as \ud83d\ude00 and a bare DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
