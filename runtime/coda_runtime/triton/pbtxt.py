"""Protocol buffers as text, as far as a config.pbtxt needs it, without the protobuf library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias


class Symbol(str):
    """The name of an enum's value, which stands without quotes."""

    __slots__ = ()


Value: TypeAlias = "str | int | bool | Message | Sequence[Value]"
Message: TypeAlias = "Mapping[str, Value]"
"""Fields by name. A sequence is a repeated field."""


def entries(values: Mapping[str, Value]) -> list[Value]:
    """Return a map field: one {key, value} message for each entry."""
    return [{"key": key, "value": value} for key, value in values.items()]


def render(message: Message, comments: Sequence[str] = ()) -> str:
    """Return the text of a message after its comments, in ASCII; every field on a line of its own."""
    return "\n".join([*map(_comment, comments), *_lines(message, "")]) + "\n"


def _comment(text: str) -> str:
    # A line feed would end the comment, and what follows it would be read as a field.
    return f"# {' '.join(text.split())}".encode("ascii", "backslashreplace").decode()


def _lines(message: Message, indent: str) -> Iterator[str]:
    for name, value in message.items():
        items = [value] if isinstance(value, str | int | Mapping) else value
        for item in items:
            if isinstance(item, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(item)}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol | int):
        return str(value)
    return f'"{"".join(map(_escaped, str(value).encode()))}"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{byte:c}"
    return f"{byte:c}" if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
