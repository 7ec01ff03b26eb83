"""What a library's error says, short enough to stand in a message of one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of the error's text, without space around the text; "" where it has none."""
    return (str(error).strip().splitlines() or [""])[0]
