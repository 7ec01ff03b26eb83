"""What a run of the demo found out: all that the report shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_deploy.demo.codes import Usage
from coda_deploy.demo.lowered import Lowered
from coda_deploy.demo.timing import Timing
from coda_runtime.codes.metrics import json_number, psnr_per_image
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.parity import ParityRecord, parity_records
from coda_runtime.format.parts import PARTS
from coda_runtime.format.precision import FP32

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class DemoResults:
    """N photographs through a tokenizer of L tokens, K scales and V codes.

    ``originals``, ``reconstructions`` and ``continuous`` (the VAE alone, without a quantizer) are uint8 [N, H, W, 3];
    ``prefixes`` is one such array a scale, decoded from the first scales up to it. ``ids`` is int32 [N, L], ``latent``
    its quantised latent float32 [N, C, h, w], ``codebook`` float32 [V, C]. ``machine`` is words to
    words. ``lowered`` is the same in a lower precision, where it was exported.
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
    manifest: Manifest
    machine: Mapping[str, str]
    lowered: Lowered | None = None

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
        return self.manifest.spec.num_tokens * self.bits_per_token / self.manifest.spec.image_size**2

    def psnr(self, images: Pixels) -> list[float]:
        """Return the PSNR of each of ``images`` to its original, dB; inf where they are identical."""
        return [float(value) for value in psnr_per_image(self.originals, images)]

    def parity(self) -> list[tuple[Artifact, str, ParityRecord]]:
        """Return (artifact, where it ran, record) of each float32 graph that the export measured."""
        return [
            (artifact, where, record)
            for artifact in self.manifest.artifacts
            if artifact.part in PARTS and artifact.precision == FP32
            for where, record in parity_records(artifact.parity).items()
        ]

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
            "lowered": None if self.lowered is None else self._lowered_json(self.lowered),
            "machine": dict(self.machine),
        }

    def _lowered_json(self, lowered: Lowered) -> dict[str, Any]:
        return {
            "precision": lowered.precision,
            "psnr": json_number(float(np.mean(self.psnr(lowered.reconstructions)))),
            "speeds": [
                {
                    "operation": speed.operation,
                    "exact_ms": speed.exact_ms,
                    "lowered_ms": speed.lowered_ms,
                    "ratio": speed.ratio,
                    "rounds": speed.rounds,
                }
                for speed in lowered.speeds
            ],
        }
