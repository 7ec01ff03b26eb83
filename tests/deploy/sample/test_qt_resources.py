"""Qt's compiled resources, as its own compiler lays them out."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from coda_deploy.sample.recipe.qt_resources import members


def resource(content: dict[str, tuple[int, bytes]], version: int = 2) -> bytes:
    """A resource with one folder ``f`` of files, each with flags and bytes."""
    names, blobs, nodes = b"", b"", list[bytes]()
    time = struct.pack(">Q", 0) if version >= 2 else b""

    def name(text: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return at

    nodes.append(struct.pack(">IHII", 0, 2, 1, 1) + time)
    nodes.append(struct.pack(">IHII", name("f"), 2, len(content), 2) + time)
    for text, (flags, body) in content.items():
        nodes.append(struct.pack(">IHHHI", name(text), flags, 0, 0, len(blobs)) + time)
        blobs += struct.pack(">I", len(body)) + body
    start = 20
    tree = b"".join(nodes)
    header = struct.pack(">4s4I", b"qres", version, start, start + len(tree), start + len(tree) + len(blobs))
    return header + tree + blobs + names


@pytest.mark.parametrize("version", [1, 2])
def test_names_and_contents(version: int, tmp_path: Path) -> None:
    packed = struct.pack(">I", 5) + zlib.compress(b"hello")
    (tmp_path / "a.rcc").write_bytes(resource({"käse.webp": (0, b"plain"), "b.txt": (1, packed)}, version))
    assert dict(members(tmp_path / "a.rcc")) == {"f/käse.webp": b"plain", "f/b.txt": b"hello"}


def test_what_it_cannot_read_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.rcc").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"is not a Qt resource: it begins with b'PK\\x03\\x04', expected b'qres'"):
        list(members(tmp_path / "a.rcc"))
    (tmp_path / "b.rcc").write_bytes(resource({"a.png": (4, b"zstd")}))
    with pytest.raises(ValueError, match=r"f/a.png has the flags 4, expected zlib's or none"):
        list(members(tmp_path / "b.rcc"))
