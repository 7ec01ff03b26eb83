"""What an evaluation found: the figures, and what a page shows of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_deploy.evaluate.extremes import Shown
from coda_deploy.evaluate.metrics import QUALITIES
from coda_deploy.evaluate.similarity import ms_ssim_scales
from coda_deploy.evaluate.target import About
from coda_runtime.codes.metrics import json_number
from coda_runtime.format.color import STORED
from coda_runtime.format.sizes import Size, count_of
from coda_runtime.format.spec import Spec

# Of the images that were skipped, as many are named.
NAMED = 100


@dataclass(frozen=True)
class Quality:
    """How close one set of reconstructions is to the originals; None where a figure was not computed.

    ``psnr`` in dB is the mean over the images that are not identical to their originals, ``rfid`` the distance between
    the two sets, the others the mean over all images. ``lpips`` is over VGG-16, ``lpips_alex`` over AlexNet.
    """

    psnr: float | None = None
    ssim: float | None = None
    ms_ssim: float | None = None
    lpips: float | None = None
    lpips_alex: float | None = None
    dists: float | None = None
    ssimulacra2: float | None = None
    rfid: float | None = None

    def minus(self, other: Quality) -> Quality:
        """Return every figure's difference, None where one of the two is."""
        pairs = {key: (getattr(self, key), getattr(other, key)) for key in QUALITIES}
        return Quality(**{key: a - b for key, (a, b) in pairs.items() if a is not None and b is not None})


@dataclass(frozen=True)
class Scale:
    """One scale's tokens over all images: how many, the share of the codes seen (0 to 1), their perplexity (1 to V).

    ``side`` is that of a square, or (height, width). ``agreement`` is the share of tokens that the other tokenizer gave
    too, None without one.
    """

    side: Size
    tokens: int
    utilization: float
    perplexity: float
    agreement: float | None


@dataclass(frozen=True)
class Evaluation:
    """All figures of one run over N images.

    ``scores`` holds float64 [N] by the key of each figure of ``tokens`` but rfid, where computed; the same of the
    continuous VAE under vae_psnr and so on, and of ``against``' tokens under against_psnr. ``other`` is the quality of
    the latter. ``not_computed`` says why a figure is None, by its name in JSON. ``skipped`` holds the first NAMED
    (name, reason) of ``num_skipped``. ``network_device`` is where LPIPS, DISTS and rFID ran, None without. ``color`` is
    what the images' values were taken for, as in ``LoadOptions``; ``num_profiles_ignored`` of them had a profile other
    than sRGB, which was ignored.
    """

    about: About
    against: About | None
    spec: Spec
    data: str
    names: Sequence[str]
    scores: Mapping[str, NDArray[np.float64]]
    tokens: Quality
    continuous: Quality | None
    other: Quality | None
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
    color: str = STORED
    num_profiles_ignored: int = 0

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
        """``L log2(V) / (H W)``; plain RGB has 24."""
        return self.spec.num_tokens * math.log2(self.spec.vocab_size) / count_of(self.spec.image_shape)

    @property
    def ms_ssim_scales(self) -> int:
        """Over how many of its five scales MS-SSIM is: small images have fewer."""
        return ms_ssim_scales(min(self.spec.image_shape))

    @property
    def difference(self) -> Quality | None:
        """Every figure of the tokens minus that of ``against``' tokens; None without ``against``."""
        return None if self.other is None else self.tokens.minus(self.other)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a JSON object, without images and per-image values; None where one was not computed."""
        nothing = dict.fromkeys(QUALITIES)
        continuous = nothing if self.continuous is None else asdict(self.continuous)
        return {
            "num_images": self.num_images,
            "num_identical": self.num_identical,
            "num_skipped": self.num_skipped,
            "color": self.color,
            "num_profiles_ignored": self.num_profiles_ignored,
            "num_tokens": self.num_tokens,
            **asdict(self.tokens),
            **{f"vae_{name}": value for name, value in continuous.items()},
            "ms_ssim_scales": self.ms_ssim_scales,
            "codebook_utilization": self.codebook_utilization,
            "codebook_perplexity": self.codebook_perplexity,
            "bits_per_pixel": self.bits_per_pixel,
            "token_agreement": self.token_agreement,
            "scales": [asdict(scale) for scale in self.scales],
            "not_computed": dict(self.not_computed),
            "warnings": list(self.warnings),
            "data": self.data,
            "subject": self.about.to_json(),
            "against": self._against(),
            "network_device": self.network_device,
            "spec": self.spec.to_json(),
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
        }

    def _against(self) -> dict[str, Any] | None:
        if self.against is None or self.other is None or self.difference is None:
            return None
        return {**self.against.to_json(), "quality": asdict(self.other), "difference": asdict(self.difference)}

    def per_image(self) -> Iterator[dict[str, Any]]:
        """Yield each image's name and scores, in the order they were read; an infinite PSNR is None."""
        for index, name in enumerate(self.names):
            yield {"name": name, **{key: json_number(values[index]) for key, values in self.scores.items()}}
