"""A whole folder of tokens to images.

`run` goes through it in batches, `record` says what an output folder holds, `writers` make the files, each there whole
or not at all.
"""

from __future__ import annotations

from .run import Decoded, decode_folder

__all__ = ["Decoded", "decode_folder"]
