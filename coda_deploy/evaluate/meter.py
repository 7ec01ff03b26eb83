"""What a run adds up, batch by batch, and the figures that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coda_deploy.data import EvalBatch
from coda_deploy.evaluate.extremes import Extremes, Shown
from coda_deploy.evaluate.frechet import FrechetMeter
from coda_deploy.evaluate.metrics import METRICS, QUALITIES, Compare, Pixels
from coda_deploy.evaluate.result import NAMED, Evaluation, Quality, Scale
from coda_deploy.evaluate.similarity import ms_ssim_per_image, ssim_per_image, ssimulacra2_per_image
from coda_deploy.evaluate.target import Target
from coda_deploy.evaluate.usage import Agreement, CodeCounts, perplexity, utilization
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.format.color import STORED
from coda_runtime.images import IgnoredProfiles
from coda_runtime.io.counts import count

# The literature's rFID is over the images of ImageNet's validation set; the covariances of fewer images than there are
# features are singular.
USUAL, FULL_RANK = 50_000, 2048
# Scores of the continuous VAE, and of the tokens of the one that is compared with, are called by those of the tokens,
# with this before.
CONTINUOUS, AGAINST = "vae_", "against_"


@dataclass(frozen=True)
class Metrics:
    """What to compute beside PSNR and the use of the codebook.

    ``lpips``, ``lpips_alex`` and ``dists`` take two batches uint8 [B, S, S, 3] and give [B], ``inception`` takes one
    and gives features [B, n]; ``network_device`` is where these run. ``continuous`` also measures the VAE alone, where
    the target has it. ``reasons`` says why figures are left out, by their keys, where it is not for want of asking.
    """

    ssim: bool = True
    ms_ssim: bool = True
    ssimulacra2: bool = False
    continuous: bool = True
    lpips: Compare | None = None
    lpips_alex: Compare | None = None
    dists: Compare | None = None
    inception: Callable[[Pixels], NDArray[np.float64]] | None = None
    network_device: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def comparisons(self) -> dict[str, Compare]:
        """What gives each image a number, by the figure's key."""
        found: dict[str, Compare | None] = {
            "psnr": psnr_per_image,
            "ssim": ssim_per_image if self.ssim else None,
            "ms_ssim": ms_ssim_per_image if self.ms_ssim else None,
            "lpips": self.lpips,
            "lpips_alex": self.lpips_alex,
            "dists": self.dists,
            "ssimulacra2": ssimulacra2_per_image if self.ssimulacra2 else None,
        }
        return {key: compare for key, compare in found.items() if compare is not None}


class Meter:
    """All that a run adds up, in memory that grows by a few numbers an image."""

    def __init__(
        self, target: Target, against: Target | None, metrics: Metrics, show: int, color: str = STORED
    ) -> None:
        spec = target.spec
        self._color = color
        self._target, self._against, self._metrics = target, against, metrics
        self._names: list[str] = []
        self._scores: dict[str, list[float]] = {}
        self._counts = CodeCounts(spec)
        self._agreement = Agreement(spec) if against is not None else None
        self._frechet = FrechetMeter(metrics.inception) if metrics.inception is not None else None
        self._extremes = Extremes(show)
        self._num_skipped = 0
        self._ignored = IgnoredProfiles()
        self._skipped: list[tuple[str, str]] = []

    def add(self, batch: EvalBatch) -> None:
        """Run one batch through everything."""
        self._num_skipped += len(batch.skipped)
        room = NAMED - len(self._skipped)
        self._skipped += [(skipped.name, skipped.reason) for skipped in batch.skipped[:room]]
        for name in batch.profiles_ignored:
            self._ignored.add(name)
        originals = batch.images
        ids = self._target.encode(originals)
        self._counts.add(ids)
        sets = {"": self._target.decode(ids)}
        if self._agreement is not None and self._against is not None:
            theirs = self._against.encode(originals)
            self._agreement.add(ids, theirs)
            sets[AGAINST] = self._against.decode(theirs)
        if self._metrics.continuous and (continuous := self._target.continuous(originals)) is not None:
            sets[CONTINUOUS] = continuous
        for prefix, images in sets.items():
            for name, compare in self._metrics.comparisons.items():
                self._scores.setdefault(prefix + name, []).extend(compare(originals, images).tolist())
        if self._frechet is not None:
            self._frechet.add(originals, sets)
        first = len(self._names)
        self._names += batch.names
        for index, name in enumerate(batch.names):
            self._extremes.add(
                Shown(
                    name,
                    self._scores["psnr"][first + index],
                    originals[index],
                    sets[""][index],
                    sets[CONTINUOUS][index] if CONTINUOUS in sets else None,
                )
            )

    def result(self, data: str) -> Evaluation:
        """Return the figures, once every image was added; ``data`` is what the images are called."""
        distances = self._frechet.distances() if self._frechet is not None else {}
        qualities = {prefix: self._quality(prefix, distances.get(prefix)) for prefix in ("", CONTINUOUS, AGAINST)}
        measured = CONTINUOUS + "psnr" in self._scores
        agreement = self._agreement
        shares: list[float] | list[None] = agreement.per_scale if agreement else [None] * len(self._counts.counts)
        worst, best = self._extremes.split()
        total, sides = self._counts.total, self._target.spec.scales
        return Evaluation(
            about=self._target.about,
            against=None if self._against is None else self._against.about,
            spec=self._target.spec,
            data=data,
            names=self._names,
            scores={name: np.array(values) for name, values in self._scores.items()},
            tokens=qualities[""],
            continuous=qualities[CONTINUOUS] if measured else None,
            other=qualities[AGAINST] if self._against is not None else None,
            scales=[
                Scale(side, int(counts.sum()), utilization(counts), perplexity(counts), share)
                for side, counts, share in zip(sides, self._counts.counts, shares, strict=True)
            ],
            codebook_utilization=utilization(total),
            codebook_perplexity=perplexity(total),
            token_agreement=agreement.share if agreement else None,
            not_computed=self._reasons(qualities),
            warnings=[
                *(_warnings(len(self._names)) if distances else []),
                *([self._ignored.warning()] if self._ignored.count else []),
            ],
            num_skipped=self._num_skipped,
            skipped=self._skipped,
            color=self._color,
            num_profiles_ignored=self._ignored.count,
            worst=worst,
            best=best,
            network_device=self._metrics.network_device,
        )

    def _quality(self, prefix: str, rfid: float | None) -> Quality:
        scores = {key: np.array(self._scores.get(prefix + key, [])) for key in QUALITIES}
        scores["psnr"] = scores["psnr"][np.isfinite(scores["psnr"])]
        return Quality(**{**{key: _mean(values) for key, values in scores.items()}, "rfid": rfid})

    def _reasons(self, qualities: dict[str, Quality]) -> dict[str, str]:
        why = {metric.key: metric.missing for metric in METRICS} | dict(self._metrics.reasons)
        if self._metrics.inception is not None:
            why["rfid"] = "it needs two images or more"
        reasons = {name: why[name] for name in QUALITIES if getattr(qualities[""], name) is None}
        if not self._metrics.continuous:
            why = dict.fromkeys(QUALITIES, "left out with --skip vae")
        elif CONTINUOUS + "psnr" not in self._scores:
            why = dict.fromkeys(QUALITIES, "a bundle does not hold it: evaluate the tokenizer it was made of")
        reasons |= {CONTINUOUS + name: why[name] for name in QUALITIES if getattr(qualities[CONTINUOUS], name) is None}
        return reasons if self._agreement else {**reasons, "token_agreement": "name another one with --against"}


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _warnings(images: int) -> list[str]:
    if images >= USUAL:
        return []
    rank = f", and from fewer than {FULL_RANK:,} the covariances are singular" if images < FULL_RANK else ""
    return [
        f"rFID over {count(images, 'image')} is biased upwards{rank}: it is not comparable with the literature's, "
        f"which are over {USUAL:,}"
    ]
