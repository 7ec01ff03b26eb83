"""What the kernels are called in PTX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def named(kernel: str, **letters: str) -> Callable[[Any], str]:
    """Give each specialisation an entry name of its own, such as ``coda_search_m64_n64``, for profilers to show."""

    def name(specialization: Any) -> str:
        sizes = (f"{letter}{int(specialization.constants[size])}" for letter, size in letters.items())
        return "_".join(["coda", kernel, *sizes])

    return name
