"""Tokens of whole datasets: images in, Parquet files of ids out, on one machine or a Ray cluster.

One pipeline: `sources` lists and reads the images, `plan` fixes their order and shards, `preprocess` prepares them,
`encoder` turns them into ids, `pipeline` runs these two on Ray Data, `shards` and `manifest` write the result, `run`
drives it all. Without Ray `folder` reads a result, `conversion` turns it into other forms, `mapped` reads one of
these, and `stream` gives an order to train in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .conversion import convert
    from .folder import TokenFolder
    from .mapped import MappedTokens
    from .run import Summary, tokenize

__all__ = ["MappedTokens", "Summary", "TokenFolder", "convert", "tokenize"]

_LAZY = {
    "MappedTokens": "mapped",
    "Summary": "run",
    "TokenFolder": "folder",
    "convert": "conversion",
    "tokenize": "run",
}


__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
