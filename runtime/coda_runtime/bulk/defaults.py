"""What a run of `coda tokenize` goes by where nothing else is asked for; the command's help shows it."""

from __future__ import annotations

SHARD_SIZE = 10_000
"""Images in each Parquet file."""
TIMEOUT_S = 60.0
"""Seconds that decoding one image may take."""
