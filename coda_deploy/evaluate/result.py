"""What an evaluation found: the figures, and what a page shows of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_deploy.evaluate.extremes import Shown
from coda_deploy.evaluate.subject import About
from coda_runtime.manifest import Spec
from coda_runtime.metrics import json_number

# Of the pictures that were skipped, as many are named.
NAMED = 100
QUALITIES = ("psnr", "ssim", "lpips", "rfid")


@dataclass(frozen=True)
class Quality:
    """How close one set of reconstructions is to the originals; None where a figure was not computed.

    ``psnr`` in dB is the mean over the images that are not identical to their originals, ``ssim`` and ``lpips`` the
    mean over all, ``rfid`` the distance between the two sets.
    """

    psnr: float | None
    ssim: float | None
    lpips: float | None
    rfid: float | None


@dataclass(frozen=True)
class Scale:
    """One scale's tokens over all images: how many, the share of the codes seen (0 to 1), their perplexity (1 to V).

    ``agreement`` is the share of tokens that the other tokenizer gave too, None without one.
    """

    side: int
    tokens: int
    utilization: float
    perplexity: float
    agreement: float | None


@dataclass(frozen=True)
class Evaluation:
    """All figures of one run over N images.

    ``scores`` holds float64 [N] by name: psnr, ssim, lpips (where computed), and the same of the continuous VAE under
    vae_psnr, vae_ssim, vae_lpips. ``not_computed`` says why a figure is None, by its name in JSON. ``skipped`` holds
    the first NAMED (name, reason) of ``num_skipped``. ``network_device`` is where LPIPS and rFID ran, None without.
    """

    about: About
    against: About | None
    spec: Spec
    data: str
    names: Sequence[str]
    scores: Mapping[str, NDArray[np.float64]]
    tokens: Quality
    continuous: Quality | None
    scales: Sequence[Scale]
    codebook_utilization: float
    codebook_perplexity: float
    token_agreement: float | None
    not_computed: Mapping[str, str]
    warnings: Sequence[str]
    num_skipped: int
    skipped: Sequence[tuple[str, str]]
    worst: Sequence[Shown]
    best: Sequence[Shown]
    network_device: str | None

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.names)

    @property
    def num_identical(self) -> int:
        """Reconstructions equal to their originals, whose PSNR is infinite and not in the mean."""
        return int(np.isinf(self.scores["psnr"]).sum())

    @property
    def num_tokens(self) -> int:
        """Tokens over all images."""
        return sum(scale.tokens for scale in self.scales)

    @property
    def bits_per_pixel(self) -> float:
        """``L log2(V) / S^2``; plain RGB has 24."""
        return self.spec.num_tokens * math.log2(self.spec.vocab_size) / self.spec.image_size**2

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object, without pictures and per-image values; None where one was not computed."""
        nothing = dict.fromkeys(QUALITIES)
        continuous = nothing if self.continuous is None else asdict(self.continuous)
        return {
            "num_images": self.num_images,
            "num_identical": self.num_identical,
            "num_skipped": self.num_skipped,
            "num_tokens": self.num_tokens,
            **asdict(self.tokens),
            **{f"vae_{name}": value for name, value in continuous.items()},
            "codebook_utilization": self.codebook_utilization,
            "codebook_perplexity": self.codebook_perplexity,
            "bits_per_pixel": self.bits_per_pixel,
            "token_agreement": self.token_agreement,
            "scales": [asdict(scale) for scale in self.scales],
            "not_computed": dict(self.not_computed),
            "warnings": list(self.warnings),
            "data": self.data,
            "subject": self.about.to_json(),
            "against": None if self.against is None else self.against.to_json(),
            "network_device": self.network_device,
            "spec": self.spec.to_json(),
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
        }

    def per_image(self) -> Iterator[dict[str, Any]]:
        """Each image's name and scores, in the order they were read; an infinite PSNR is None."""
        for index, name in enumerate(self.names):
            yield {"name": name, **{key: json_number(values[index]) for key, values in self.scores.items()}}
