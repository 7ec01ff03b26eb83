"""manifest.json of a finished run: its presence says that all shards are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .. import __version__
from ..errors import CodaError, OutputError, one_line
from ..format.bundle import Bundle
from ..format.manifest import MANIFEST_NAME
from ..format.spec import Spec
from ..io.json_fields import is_int, parse_json
from .plan import Plan
from .shards import VARIANT_COLUMNS, Finished, rows_per_group

NAME = "manifest.json"
ERRORS_NAME = "errors.jsonl"
FORMAT_VERSION = 1
WITH_VARIANTS = 2
"""The format version of a folder with several variants of each image, of which older readers would see some."""


@dataclass(frozen=True)
class Result:
    """What a manifest says that readers need; `data` is all of it, as JSON has it.

    `shards` holds (file, number of rows) in order, `rows_per_group` how many rows a Parquet row group has, `variants`
    how many rows each image has, one after the other.
    """

    spec: Spec
    shards: tuple[tuple[str, int], ...]
    rows_per_group: int
    variants: int
    data: dict[str, Any]


def format_manifest(plan: Plan, bundle: Bundle, shards: Sequence[Finished]) -> bytes:
    """Return the bytes of manifest.json, for the finished shards of a whole plan."""
    settings = plan.settings
    images = sum(shard.images for shard in shards)
    made_by = {json.dumps(part, sort_keys=True): part for shard in shards for part in shard.made_by}
    columns = ["path", "ids"]
    columns += VARIANT_COLUMNS if settings.variants is not None else ()
    columns += ["label"] if settings.label is not None else []
    columns += ["width", "height"] if settings.original_size else []
    content = {
        "format_version": FORMAT_VERSION if settings.variants is None else WITH_VARIANTS,
        "spec": settings.spec,
        "bundle": {
            "fingerprints": list(bundle.fingerprints),
            "manifest_sha256": hashlib.sha256((bundle.folder / MANIFEST_NAME).read_bytes()).hexdigest(),
            "graphs": settings.tokenizer,
        },
        "precision": settings.precision,
        "color": settings.color,
        "profiles_ignored": sum(shard.profiles_ignored for shard in shards),
        "made_by": [made_by[key] for key in sorted(made_by)],
        "source": settings.source,
        "columns": columns,
        "images": images,
        "variants": plan.variants.count,
        "augmentation": settings.variants,
        "tokens": images * plan.variants.count * int(settings.spec["num_tokens"]),
        "errors": sum(len(shard.errors) for shard in shards),
        "omitted": plan.omitted.to_json(),
        "unlabelled": plan.unlabelled,
        "shard_size": settings.shard_size,
        "rows_per_group": rows_per_group(plan.variants.count),
        "shards": [
            {
                "file": shard.file,
                "images": shard.images,
                "errors": len(shard.errors),
                "bytes": shard.bytes,
                "ids_sha256": shard.ids_sha256,
            }
            for shard in shards
        ],
        "plan": plan.digest,
        "versions": {
            "coda-runtime": __version__,
            **{name: metadata.version(name) for name in ("numpy", "pillow", "pyarrow", "ray")},
        },
    }
    return json.dumps(content, indent=2, allow_nan=False).encode()


def read_manifest(data: bytes, where: str) -> Result:
    """Read manifest.json. Raises OutputError if it is damaged, or of a newer coda."""
    try:
        content = parse_json(data)
        version = content["format_version"]
        if is_int(version) and version > WITH_VARIANTS:
            raise OutputError(f"{where} has format version {version}, of a newer coda; upgrade coda-runtime")
        variants = int(content.get("variants", 1))  # older folders have none
        shards = tuple((str(shard["file"]), int(shard["images"]) * variants) for shard in content["shards"])
        per_group = int(content["rows_per_group"])
        if min(variants, per_group) < 1 or any(rows < 0 for _, rows in shards):
            raise ValueError("a number of rows that there cannot be")
        if not {"path", "ids"} <= set(content["columns"]) or not all(
            shard["ids_sha256"] for shard in content["shards"]
        ):
            raise ValueError("columns that there cannot be, or a shard without a checksum")
        return Result(Spec.from_json(content["spec"]), shards, per_group, variants, content)
    except OutputError:
        raise
    except (ValueError, TypeError, KeyError, CodaError) as error:
        raise OutputError(
            f"{where} is not what `coda tokenize` writes ({one_line(error, named=True)}); run it again"
        ) from error
