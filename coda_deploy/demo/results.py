"""What a run of the demo found out: all that the report shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_deploy.demo.codes import Usage
from coda_deploy.demo.timing import PrecisionTiming, Timing
from coda_runtime.codes.metrics import json_number, psnr_per_image
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.parity import Measured, ParityRecord, parity_records
from coda_runtime.format.parts import PARTS
from coda_runtime.format.precision import INT8
from coda_runtime.format.sizes import count_of

Pixels = NDArray[np.uint8]
# What the bundle holds beside fp32, and the report shows beside it.
LOWER = INT8


@dataclass(frozen=True)
class Int8:
    """The photographs through the bundle's int8 encoder and decoder: ``reconstructions`` is uint8 [N, H, W, 3]."""

    reconstructions: Pixels
    timings: Sequence[PrecisionTiming]


@dataclass(frozen=True)
class NoInt8:
    """Why the bundle has no int8: what the export said of it."""

    reason: str


@dataclass(frozen=True)
class DemoResults:
    """N photographs through a tokenizer of L tokens, K scales and V codes.

    ``originals``, ``reconstructions`` and ``continuous`` (the VAE alone, without a quantizer) are uint8 [N, H, W, 3];
    ``prefixes`` is one such array a scale, decoded from the first scales up to it. ``ids`` is int32 [N, L], ``latent``
    its quantised latent float32 [N, C, h, w], ``codebook`` float32 [V, C]. ``machine`` is words to words. All of it is
    fp32's but ``int8``.
    """

    names: Sequence[str]
    originals: Pixels
    reconstructions: Pixels
    continuous: Pixels
    prefixes: Sequence[Pixels]
    ids: NDArray[np.int32]
    scales: Sequence[NDArray[np.int32]]
    latent: NDArray[np.float32]
    codebook: NDArray[np.float32]
    usage: Usage
    timings: Sequence[Timing]
    int8: Int8 | NoInt8
    manifest: Manifest
    machine: Mapping[str, str]

    @property
    def bits_per_token(self) -> int:
        """Whole bits that hold one id."""
        return max(1, math.ceil(math.log2(self.manifest.spec.vocab_size)))

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image's ids, packed."""
        return math.ceil(self.manifest.spec.num_tokens * self.bits_per_token / 8)

    @property
    def bits_per_pixel(self) -> float:
        """Bits of ids for a pixel; plain RGB has 24."""
        return self.manifest.spec.num_tokens * self.bits_per_token / count_of(self.manifest.spec.image_shape)

    def psnr(self, images: Pixels) -> list[float]:
        """Return the PSNR of each of ``images`` to its original, dB; inf where they are identical."""
        return [float(value) for value in psnr_per_image(self.originals, images)]

    def parity(self) -> list[tuple[Artifact, str, ParityRecord]]:
        """Return (artifact, where it ran, record) of each graph that the export measured."""
        return [
            (artifact, where, record)
            for artifact in self.manifest.artifacts
            if artifact.part in PARTS
            for where, record in parity_records(artifact.parity).items()
        ]

    def measured(self, part: str, precision: str) -> Measured | None:
        """Return what the export measured of a part's graph; None where there is none, or it was not run."""
        found = (
            record for artifact, _, record in self.parity() if (artifact.part, artifact.precision) == (part, precision)
        )
        return next((record for record in found if isinstance(record, Measured)), None)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the images."""
        spec = self.manifest.spec
        return {
            "num_images": len(self.names),
            "image_size": spec.image_size,
            "num_tokens": spec.num_tokens,
            "vocab_size": spec.vocab_size,
            "bits_per_pixel": self.bits_per_pixel,
            "psnr": json_number(float(np.mean(self.psnr(self.reconstructions)))),
            "vae_psnr": json_number(float(np.mean(self.psnr(self.continuous)))),
            "images": [
                {"name": name, "psnr": json_number(discrete), "vae_psnr": json_number(continuous)}
                for name, discrete, continuous in zip(
                    self.names, self.psnr(self.reconstructions), self.psnr(self.continuous), strict=True
                )
            ],
            "psnr_per_prefix": [
                {"tokens": tokens, "psnr": json_number(float(np.mean(self.psnr(images))))}
                for tokens, images in zip(spec.prefix_lengths, self.prefixes, strict=True)
            ],
            "codebook_utilization": self.usage.utilization,
            "codebook_perplexity": self.usage.perplexity,
            "parity": [
                {"file": artifact.file, "ran_on": where, **record.to_json()}
                for artifact, where, record in self.parity()
            ],
            "timings": [
                {
                    "part": timing.part,
                    "batch": timing.batch,
                    "torch_ms": timing.torch_ms,
                    "runtime_ms": timing.runtime_ms,
                    "ratio": timing.ratio,
                    "rounds": timing.rounds,
                    "torch_threads": timing.threads,
                }
                for timing in self.timings
            ],
            LOWER: self._int8_json(self.int8),
            "machine": dict(self.machine),
        }

    def _int8_json(self, found: Int8 | NoInt8) -> dict[str, Any]:
        if isinstance(found, NoInt8):
            return {"reason": found.reason}
        return {
            "psnr": json_number(float(np.mean(self.psnr(found.reconstructions)))),
            "timings": [
                {
                    "operation": timing.operation,
                    "batch": timing.batch,
                    "fp32_ms": timing.fp32_ms,
                    "int8_ms": timing.int8_ms,
                    "ratio": timing.ratio,
                    "rounds": timing.rounds,
                }
                for timing in found.timings
            ],
        }
