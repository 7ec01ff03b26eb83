"""From what a user asks for to metrics that are ready to run; what is missing fails here, before any image is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from coda_deploy.evaluate.devices import network_device
from coda_deploy.evaluate.frechet import Inception, inception_is_here
from coda_deploy.evaluate.learned import dists, lpips
from coda_deploy.evaluate.meter import Metrics
from coda_deploy.evaluate.similarity import require_ms_ssim, require_ssim, require_ssimulacra2


@dataclass(frozen=True)
class Choice:
    """What was asked for, by the names of the options of `coda eval`; a weights' file implies its figure."""

    every: bool = False
    lpips: bool = False
    lpips_alex: bool = False
    dists: bool = False
    ssimulacra2: bool = False
    rfid: bool = False
    lpips_weights: Path | None = None
    lpips_alex_weights: Path | None = None
    inception_weights: Path | None = None
    skip: Collection[str] = ()


def make_metrics(choice: Choice, device: str) -> Metrics:
    """Load what ``choice`` needs, its networks onto ``device`` where PyTorch can.

    ``every`` asks for all figures, of which rFID only if Inception's weights are on this machine: no command brings
    them. Raises ``MissingDependencyError`` for a package, ``WeightsError`` for weights that are missing.
    """
    every, skip = choice.every, choice.skip
    ssim, ms_ssim, ssimulacra2 = "ssim" not in skip, "ms-ssim" not in skip, every or choice.ssimulacra2
    for require, wanted in ((require_ssim, ssim), (require_ms_ssim, ms_ssim), (require_ssimulacra2, ssimulacra2)):
        if wanted:
            require()
    vgg, alex, file = choice.lpips_weights, choice.lpips_alex_weights, choice.inception_weights
    with_dists = every or choice.dists
    # VGG-16's file may be given for DISTS alone; given for nothing else, it is for LPIPS.
    with_lpips = every or choice.lpips or (vgg is not None and not with_dists)
    with_alex = every or choice.lpips_alex or alex is not None
    with_inception = choice.rfid or file is not None or (every and inception_is_here())
    resolved = network_device(device) if with_lpips or with_alex or with_dists or with_inception else None
    return Metrics(
        ssim=ssim,
        ms_ssim=ms_ssim,
        ssimulacra2=ssimulacra2,
        continuous="vae" not in skip,
        lpips=lpips(vgg, resolved) if with_lpips and resolved else None,
        lpips_alex=lpips(alex, resolved, "alex") if with_alex and resolved else None,
        dists=dists(vgg, resolved) if with_dists and resolved else None,
        inception=Inception(file, resolved) if with_inception and resolved else None,
        network_device=None if resolved is None else str(resolved),
        reasons={"rfid": "Inception's weights are not available: name them with --inception-weights"} if every else {},
    )
