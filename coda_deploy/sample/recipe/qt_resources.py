"""Read Qt's compiled resources (.rcc), in which GCompris keeps its photographs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_COMPRESSED, _FOLDER = 1, 2


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name, folders and all, and the bytes of every file in a resource of format 1 to 3.

    Raises ``ValueError`` for a file of another kind, and for one compressed otherwise than by zlib.
    """
    data = path.read_bytes()
    if data[:4] != b"qres":
        raise ValueError(f"{path} is not a Qt resource: it begins with {data[:4]!r}, expected b'qres'")
    version, tree, blobs, names = struct.unpack_from(">4I", data, 4)
    node_bytes = 22 if version >= 2 else 14  # from format 2 on, with the time of the last change

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * node_bytes
        name_at, flags = struct.unpack_from(">IH", data, at)
        name = folder
        if node:  # the root has none
            (length,) = struct.unpack_from(">H", data, names + name_at)
            start = names + name_at + 6
            name = f"{folder}/{data[start : start + 2 * length].decode('utf-16-be')}".lstrip("/")
        if flags & _FOLDER:
            count, first = struct.unpack_from(">2I", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, name)
            return
        (blob,) = struct.unpack_from(">I", data, at + 10)
        (length,) = struct.unpack_from(">I", data, blobs + blob)
        content = data[blobs + blob + 4 : blobs + blob + 4 + length]
        if flags & ~(_COMPRESSED | _FOLDER):
            raise ValueError(f"{path}: {name} has the flags {flags}, expected zlib's or none")
        yield name, zlib.decompress(content[4:]) if flags & _COMPRESSED else content

    yield from walk(0, "")
