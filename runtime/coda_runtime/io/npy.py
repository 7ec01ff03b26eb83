""".npy and .npz files, read without believing what they say of themselves: no pickle, nothing allocated unchecked."""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import one_line
from .counts import count
from .regular_files import open_regular
from .unpacking import check_unpacked, max_unpacked

Array = npt.NDArray[Any]

NUMBERS = "biuf"
"""Kinds of dtypes: booleans, whole numbers and floats. With "U" for text; an object array would be a pickle."""
_MAX_EMPTY = 1 << 20
"""The sides of an array without elements, those of 0 left out, may come to this: no batch of one image is larger."""


def read_npy(path: str | os.PathLike[str], read: bytes | None = None) -> Array:
    """Read the array of a .npy file, or of its bytes where somebody has `read` them already.

    Raises ValueError for what is none, or holds more or less than its header says.
    """
    try:
        with _opened(path, read) as file:
            return _read(file, file.seek(0, os.SEEK_END), NUMBERS)
    except Exception as error:  # numpy stumbles in many ways over a damaged file
        raise ValueError(one_line(error)) from error


def read_npz(path: str | os.PathLike[str], kinds: str = NUMBERS, read: bytes | None = None) -> dict[str, Array]:
    """Read the arrays of a .npz file by name, all of one of these `kinds`; or of its bytes, as `read_npy` does.

    Raises ValueError for what is none, for members that hold more or less than their headers say, and for an archive
    that would unpack to far more than its own size.
    """
    try:
        # An open file: zipfile and numpy leave open what they opened and could not read.
        with _opened(path, read) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            check_unpacked("it", total, max_unpacked(file.seek(0, os.SEEK_END)))
            return {_name(member): _member(archive, member, kinds) for member in members}
    except Exception as error:  # zipfile, zlib and numpy each stumble in their own way over a damaged file
        raise ValueError(one_line(error)) from error


def _opened(path: str | os.PathLike[str], read: bytes | None) -> BinaryIO:
    return open_regular(path) if read is None else io.BytesIO(read)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str) -> Array:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename!r} is packed by method {member.compress_type}, expected none or deflate")
    with archive.open(member) as file:
        return _read(file, member.file_size, kinds)


def _name(member: zipfile.ZipInfo) -> str:
    if not member.filename.endswith(".npy"):
        raise ValueError(f"it holds {member.filename[:60]!r}, expected .npy files")
    return member.filename.removesuffix(".npy")


def _read(file: IO[bytes], size: int, kinds: str) -> Array:
    """Read the array in a file of `size` bytes."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy version {version}, expected 1 or 2")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in kinds:
        raise ValueError(f"an array of {dtype}, expected plain {'numbers' if kinds == NUMBERS else 'numbers or text'}")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != expected:
        raise ValueError(f"{count(size, 'byte')}, and its header says {dtype} {list(shape)}, which are {expected:,}")
    # Elements of zero bytes, and sides beside a side of zero, take no room and yet may be as many as the header says.
    if not dtype.itemsize or math.prod(filter(None, shape)) > max(size, _MAX_EMPTY):
        raise ValueError(
            f"its header says {dtype} {list(shape)}, more elements than its {count(size, 'byte')} can hold"
        )
    file.seek(0)
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    if dtype.kind == "U":
        letters = array.ravel().view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.size and letters.max() > sys.maxunicode:  # str() would raise SystemError
            raise ValueError(f"text with a character of number {letters.max()}, which is none")
    return array
