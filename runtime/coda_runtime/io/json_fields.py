"""JSON that nobody vouches for, and keys out of it by name and type: which one is wrong and how."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import ManifestError


class Fields:
    """Takes keys out of a JSON object by name and type; what is left at the end is unknown, and kept.

    `failing` raises what a reason deserves: by default the error of a manifest.
    """

    def __init__(self, data: object, where: str, failing: Callable[[str], NoReturn] | None = None) -> None:
        self._where = f"{where}." if where else ""
        self._fail = failing or fail
        if not isinstance(data, dict):
            self._fail(f"{where or 'the top level'} must be an object, found {describe(data)}")
        self._data = dict(data)

    def take(self, key: str, check: Callable[[Any], bool], expected: str, default: Any = ...) -> Any:
        if key not in self._data:
            if default is ...:
                self._fail(f"the key {self._where}{key} is missing; expected {expected}")
            return default
        value = self._data.pop(key)
        if not check(value):
            self._fail(f"{self._where}{key} is {describe(value)}; expected {expected}")
        return value

    def string(self, key: str, default: Any = ...) -> str:
        """Read text that can be shown: what is not printable could steer a terminal, or not be Unicode at all."""
        return str(self.take(key, _is_text, "a non-empty string of printable characters", default))

    def positive(self, key: str, maximum: int = 2**53) -> int:
        """Read a whole number from 1 to `maximum`."""
        expected = f"a positive whole number up to {maximum}"
        return int(self.take(key, lambda value: is_int(value) and 0 < value <= maximum, expected))

    def rest(self) -> dict[str, Any]:
        return self._data


def fail(reason: str) -> NoReturn:
    raise ManifestError(f"manifest.json: {reason}; export the bundle again, or correct the manifest")


def shown(key: str) -> str:
    """Return a key or name for a message: as it is if it can be printed, or else as Python writes it."""
    return key if key.isprintable() else describe(key)


def describe(value: object) -> str:
    """Describe a value for a message, as Python writes it, cut to sixty characters."""
    return _short(repr(_beginning(value, [60])))


def _beginning(value: object, left: list[int]) -> object:
    """Return the first `left` values in a value: each is a character or more of the sixty that are shown.

    repr() of a long list takes seconds, and it may lie deeper inside.
    """
    left[0] -= 1
    if isinstance(value, str):
        return value[:70]
    if isinstance(value, list):
        return [_beginning(inner, left) for inner in itertools.takewhile(lambda _: left[0] > 0, value)]
    if isinstance(value, dict):
        items = itertools.takewhile(lambda _: left[0] > 0, value.items())
        return {_beginning(key, left): _beginning(inner, left) for key, inner in items}
    return value


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; use null")


def finite_float(text: str) -> float:
    """Parse a float for json's parse_float: 1e999 would become infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:60]} is too large for a number")
    return value


def bounded_int(text: str) -> int:
    """Parse an int for json's parse_int: 64 bits, beyond which neither numpy nor a float can follow."""
    value = int(text) if len(text) <= 20 else None
    if value is None or not -(2**63) <= value < 2**63:
        raise ValueError(f"{_short(text)} is too large for a whole number")
    return value


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {describe(twice)} appears twice")
    return out


def parse_json(text: str | bytes, max_depth: int = 64) -> Any:
    """Parse JSON of which nothing is believed: finite numbers, whole ones of 64 bits, keys once, lists not too deep.

    Raises ValueError for anything else.
    """
    try:
        data = json.loads(
            text,
            parse_constant=no_constant,
            parse_float=finite_float,
            parse_int=bounded_int,
            object_pairs_hook=unique_keys,
        )
    except RecursionError as error:
        raise ValueError(f"lists and objects are nested more than {max_depth} deep") from error
    check_depth(data, max_depth)
    return data


def check_depth(data: object, maximum: int) -> None:
    """Raise ValueError where lists and objects lie more than `maximum` deep in each other."""
    level: list[object] = [data]
    for _ in range(maximum + 1):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError(f"lists and objects are nested more than {maximum} deep")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def flat_rows(data: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested objects as rows of (keys one after the other, value as text)."""
    for key, value in data.items():
        name = f"{head} {key}".strip()
        if isinstance(value, Mapping):
            yield from flat_rows(value, name)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_size(value: Any) -> bool:
    return is_int(value) and value >= 0


def is_list(value: object) -> bool:
    return isinstance(value, list)


def is_object(value: object) -> bool:
    return isinstance(value, dict)


def is_object_or_null(value: object) -> bool:
    return value is None or isinstance(value, dict)


def is_string_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def compact_json(data: object) -> str:
    """Return JSON for people: lists of numbers in one line, for thousands of samples one a line would bury the rest."""
    text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
    text = re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return text + "\n"
