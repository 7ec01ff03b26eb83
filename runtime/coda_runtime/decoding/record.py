"""decoded.json: what the images of a folder were decoded from, so that a later run goes on with them or is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError, one_line
from ..io.atomic_files import staged_file
from ..io.json_fields import parse_json

NAME = "decoded.json"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Record:
    """What decides which images come out, as decoded.json has it beside its format version and whether it is finished.

    `tokens` are the SHA-256 of the ids of each shard, `tokenizer` is the bundle's fingerprint, `scales` the number of
    scales that are decoded, `shards` whether .tar files are written.
    """

    tokens: list[str]
    tokenizer: str
    precision: str
    scales: int
    shards: bool


def begin(folder: Path, record: Record) -> None:
    """Write a record, or find the same one there. Raises InputError for another, OutputError for a damaged one."""
    path = folder / NAME
    if not path.exists():
        write(folder, record, finished=False)
        return
    try:
        content: dict[str, Any] = parse_json(path.read_bytes())
        version, found = content["format_version"], content["record"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{path} is not what `coda decode` writes ({one_line(error, named=True)}); choose another --out, or begin "
            "again with --force"
        ) from error
    expected = asdict(record)
    differing = (
        [key for key in expected if found.get(key) != expected[key]] if version == _FORMAT_VERSION else ["format"]
    )
    if differing:
        raise InputError(
            f"{folder} holds images of another run: {', '.join(differing)} {'differ' if differing[1:] else 'differs'}; "
            "choose another --out, or replace them with --force"
        )


def write(folder: Path, record: Record, *, finished: bool) -> None:
    """Write decoded.json, whole. Raises OutputError."""
    content = {"format_version": _FORMAT_VERSION, "finished": finished, "record": asdict(record)}
    with staged_file(folder / NAME) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
