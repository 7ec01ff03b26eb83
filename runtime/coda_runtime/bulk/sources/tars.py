"""WebDataset shards: images are members of tar files, and the label is a file beside them, such as `0001.cls`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ImageError, InputError
from ...io.filenames import utf8_name
from ...io.image_files import is_image
from ...io.remote import redacted
from ..tars import members
from .base import Part, by_file, table_of
from .fetching import AT_ONCE, MAX_BYTES, Fetched, check_state, open_file, read_ranges, source_errors, state, too_large
from .matches import Matches

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST_LABEL = 4096  # bytes
_SUFFIXES_TOLD = 12


class TarFiles:
    """Each image is a member of a tar file, in the order of the files and of the members in them."""

    def __init__(self, matches: Matches, label: str | None) -> None:
        self._fs = matches.fs
        self._shards = {name: matches.path(name) for name in matches.ending(".tar")}
        self._label = None if label is None else label.lstrip(".")
        self._files = {path: state(self._fs, path) for path in self._shards.values()}
        self.omitted = matches.omitted

    def files(self) -> dict[str, str]:
        return self._files

    def listing(self) -> pa.Table:
        import pyarrow as pa

        parts: list[Part] = []
        labels: list[str | None] = []
        others: set[str] = set()
        for name, path in self._shards.items():
            found, labelled = self._members(path)
            images = [member for member in found if is_image(member[0])]
            keys = pa.array([utf8_name(f"{name}/{member}") for member, _, _ in images], pa.string())
            places = {"offset": [offset for _, offset, _ in images], "size": [size for _, _, size in images]}
            parts.append(Part(path, keys, places))
            if self._label is not None:
                labels += [labelled.get(_sample(member), labelled.get(_stem(member))) for member, _, _ in images]
                others |= {_suffix(member) for member, _, _ in found}
        if labels and not any(label is not None for label in labels):
            raise InputError(
                f"label is {self._label!r}, and no image of {next(iter(self._shards))}"
                f"{' or the others' if len(self._shards) > 1 else ''} has a file with that suffix beside it; the "
                f"members end in {', '.join(sorted(others)[:_SUFFIXES_TOLD])}: name one of these"
            )
        return table_of(parts, labels if self._label else None)

    def reader(self, files: dict[str, str]) -> TarReader:
        return TarReader(self._fs, files)

    def _members(self, path: str) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
        """Return the members of a shard, and the label of each sample."""
        labels: dict[str, str] = {}
        with source_errors(path), open_file(self._fs, path) as file:
            found = list(members(file, self._fs.info(path)["size"], redacted(path), self.omitted))
            for name, offset, size in found if self._label else ():
                sample = name.removesuffix(f".{self._label}")
                if sample != name and size > _LONGEST_LABEL:
                    self.omitted.add("oversized label", f"{redacted(path)}/{name}")
                elif sample != name:
                    file.seek(offset)
                    labels[sample] = file.read(size).decode(errors="replace").strip()
        return found, labels


@dataclass(frozen=True)
class TarReader:
    """Reads members at their offsets."""

    fs: Any
    states: dict[str, str]

    def read(self, rows: pa.Table) -> Iterator[Fetched]:
        for path, part in by_file(rows):
            check_state(self.fs, path, self.states[path])
            names = part.column("path").to_pylist()
            ranges = list(zip(part.column("offset").to_pylist(), part.column("size").to_pylist(), strict=True))
            for start in range(0, len(ranges), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                wanted = [(offset, size if size <= MAX_BYTES else 0) for offset, size in ranges[some]]
                for name, (_, size), item in zip(
                    names[some], ranges[some], read_ranges(self.fs, path, wanted, names[some]), strict=True
                ):
                    if size > MAX_BYTES:
                        yield ImageError(too_large(name, size))
                    else:
                        yield item


def _sample(member: str) -> str:
    """Return what the files of one sample share: the name up to the first dot of its last component."""
    folder, name = os.path.split(member)
    return os.path.join(folder, name.split(".")[0])  # noqa: PTH118 - a name in an archive


def _stem(member: str) -> str:
    """Return a name without its last suffix: what a label beside it is called where the names themselves have dots."""
    return os.path.splitext(member)[0]  # noqa: PTH122 - a name in an archive


def _suffix(member: str) -> str:
    return os.path.splitext(member)[1] or "no suffix"  # noqa: PTH122
