"""Millions of file names in little memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class PackedNames:
    """A sequence of names, kept as one string of bytes.

    Every look at a list's string changes its reference count, so a forked worker would come to copy the whole list.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode(errors="surrogatepass") for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._bytes[start : int(self._ends[index])].decode(errors="surrogatepass")
