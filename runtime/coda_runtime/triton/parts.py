"""The models of a repository, one for each part of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parts import PARTS


@dataclass(frozen=True)
class ServedFile:
    """A file of the bundle and its name in the model's version folder.

    `capability` is the compute capability it is for, as Triton writes it, "8.9"; None for the model's default file.
    """

    artifact: Artifact
    name: str
    capability: str | None = None


@dataclass(frozen=True)
class ServedPart:
    """One model: `files` that compute one part of the tokenizer, and the most images it takes in a batch.

    `format` is "onnx" or "tensorrt". `preferred` batch sizes are those that engines were tuned for; empty for ONNX.
    `profiles` are the numbers of the engines' batch profiles, where they have several.
    """

    part: str
    format: str
    files: tuple[ServedFile, ...]
    max_batch: int
    preferred: tuple[int, ...] = ()
    profiles: tuple[int, ...] = ()


def find(bundle: Bundle, part: str, format: str, precision: str) -> list[Artifact]:
    """Return the files of a part for a tokenizer in this precision: the quantizer is always float32."""
    return bundle.manifest.find(part, format=format, precision=PARTS[part].precision_in(precision))
