"""Tokens of whole datasets: images in, Parquet files of ids out, on one machine or a Ray cluster.

One pipeline: `sources` lists and reads the images, `plan` fixes their order and shards, `preprocess` prepares them,
`encoder` turns them into ids, `pipeline` runs these two on Ray Data, `shards` and `manifest` write the result, `run`
drives it all; `folder` reads a result without Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .folder import TokenFolder
    from .run import Summary, tokenize

__all__ = ["Summary", "TokenFolder", "tokenize"]

_LAZY = {"Summary": "run", "TokenFolder": "folder", "tokenize": "run"}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
