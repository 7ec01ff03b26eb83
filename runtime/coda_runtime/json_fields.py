"""Taking keys out of manifest.json by name and type, with a message that says which one is wrong and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .errors import ManifestError


class Fields:
    """Takes keys out of a JSON object by name and type; what is left at the end is unknown, and kept."""

    def __init__(self, data: object, where: str) -> None:
        self._where = f"{where}." if where else ""
        if not isinstance(data, dict):
            fail(f"{where or 'the top level'} must be an object, found {_describe(data)}")
        self._data = dict(data)

    def take(self, key: str, check: Callable[[Any], bool], expected: str, default: Any = ...) -> Any:
        if key not in self._data:
            if default is ...:
                fail(f"the key {self._where}{key} is missing; expected {expected}")
            return default
        value = self._data.pop(key)
        if not check(value):
            fail(f"{self._where}{key} is {_describe(value)}; expected {expected}")
        return value

    def string(self, key: str, default: Any = ...) -> str:
        return str(self.take(key, lambda value: isinstance(value, str) and value != "", "a non-empty string", default))

    def positive(self, key: str) -> int:
        return int(self.take(key, lambda value: is_int(value) and value > 0, "a positive whole number"))

    def rest(self) -> dict[str, Any]:
        return self._data


def fail(reason: str) -> NoReturn:
    raise ManifestError(f"manifest.json: {reason}; export the bundle again, or correct the manifest")


def _describe(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; use null")


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
    return out


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
