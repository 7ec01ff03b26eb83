"""WebDataset shards: tar files, whose members are found by reading their headers once."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, cast

from ..errors import InputError
from ..io.image_files import count_omitted, has_image_suffix
from ..io.omitted import Omitted

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_LONGEST_HEADER = 128 << 10
"""Bytes of all headers of one member; the longest path is 4096 of them, and extended attributes are mostly fewer."""
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the texts that a pattern with `{000..012}` or `{a,b}` stands for, in order; `*` and `?` are left alone."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, listed = found.groups()
    if listed is not None:
        alternatives: Iterator[str] = iter(listed.split(","))
    else:
        step = 1 if int(first) <= int(last) else -1
        alternatives = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + step, step))
    for alternative in alternatives:
        yield from expand_braces(pattern[: found.start()] + alternative + pattern[found.end() :])


class _Headers:
    """An open tar file as tarfile reads it, which believes a header's own length, and goes from one to the next.

    It parses long ones for minutes, follows a chain of them by recursion, and waits for the rest of a cut one for ever.
    So what it reads for one member is bounded; what a member holds it skips.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _LONGEST_HEADER
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        """Read no more than is left for this member's headers. Raises ValueError."""
        self.left -= max(size, 1) if size >= 0 else _LONGEST_HEADER + 1
        if self.left < 0:
            raise ValueError(f"the headers of one member take more than {_LONGEST_HEADER} bytes")
        return self._file.read(size)


def members(file: IO[bytes], size: int, path: str, omitted: Omitted) -> Iterator[tuple[str, int, int]]:
    """Yield the (name, offset, size) in bytes of each regular member of an open tar file, in order.

    A hard link is the file that it leads to. Only headers are read. `size` is the whole file's, `path` what messages
    call it. Images that cannot be read from it are counted in `omitted`: links, sparse files, and what `count_omitted`
    finds. Raises InputError for a file that is no tar, compressed, cut or damaged; OSError.
    """
    places: dict[str, tuple[int, int]] = {}
    headers = _Headers(file)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r:") as archive:
            while (member := archive.next()) is not None:
                headers.left = _LONGEST_HEADER
                archive.members.clear()  # type: ignore[attr-defined] # it would keep them all
                place = _place(member, places, size, path)
                if isinstance(place, str):
                    if has_image_suffix(member.name):
                        omitted.add(place, f"{path}/{member.name}")
                elif place is not None:
                    places[member.name] = place
                    count_omitted([member.name], omitted, inside=path)
                    yield member.name, *place
            _check_end(path, file, archive.offset)
    except (InputError, OSError):
        raise
    except Exception as error:  # tarfile stumbles in many ways over a damaged header
        if "range requests" in str(error):  # of fsspec, no word of the archive's
            raise
        raise InputError(_not_a_tar(path, file, error)) from error


def _place(
    member: tarfile.TarInfo, places: Mapping[str, tuple[int, int]], size: int, path: str
) -> tuple[int, int] | str | None:
    """Return the (offset, size) of a member's bytes, or as what it is left out; None for a folder."""
    if member.islnk():
        return places.get(member.linkname, "link to what is not in the archive")
    if member.issym():
        return "symbolic link"
    if member.issparse():
        return "sparse file"
    if not member.isreg():
        return None if member.isdir() else "special file"
    if not 0 <= member.size <= size - member.offset_data:
        raise InputError(f"{path} is truncated inside {member.name!r}; copy or download it again")
    return member.offset_data, member.size


def _check_end(path: str, file: IO[bytes], end: int) -> None:
    # tarfile takes a damaged or missing header for the end of the archive, so its end is looked at here.
    file.seek(end)
    rest = file.read(1 << 16)
    if len(rest) < tarfile.BLOCKSIZE:
        raise InputError(f"{path} is truncated: a tar file ends with two blocks of zeros; copy or download it again")
    if rest.strip(b"\0"):
        raise InputError(
            f"{path} has a damaged header at byte {end}, or is several tar files in one; copy or download it again, "
            "or pack its files again"
        )


def _not_a_tar(path: str, file: IO[bytes], error: Exception) -> str:
    file.seek(0)
    kind = _COMPRESSED.get(file.read(2))
    if kind is not None:
        return f"{path} is compressed with {kind}, which allows no random access: decompress it to a plain .tar"
    return f"{path} is not a tar file, or is damaged ({error}); copy or download it again"
