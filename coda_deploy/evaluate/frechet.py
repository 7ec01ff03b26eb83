"""Frechet inception distance by torch-fidelity; between images and their reconstructions it is called rFID."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_deploy.errors import WeightsError
from coda_deploy.evaluate.devices import to_tensor
from coda_deploy.perception.weights import find_weights
from coda_deploy.tokenizer.storage import read_state
from coda_runtime.errors import MissingDependencyError, one_line

Pixels = NDArray[np.uint8]
FEATURES = 2048
WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"


class Gaussian:
    """Mean [n] and covariance [n, n] of features, updated batch by batch in float64, so that no features are kept.

    Batches are merged as Chan, Golub and LeVeque (1979) do, around the batch's own mean, which loses no digits.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = np.zeros(features)
        self._scatter = np.zeros((features, features))

    def add(self, features: NDArray[np.float64]) -> None:
        """Take in the features [B, n] of one batch."""
        if not len(features):
            return
        mean, total = features.mean(0), self.count + len(features)
        centred, shift = features - mean, mean - self.mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(features) / total)
        self.mean = self.mean + shift * (len(features) / total)
        self.count = total

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The unbiased covariance; needs two features or more."""
        return self._scatter / (self.count - 1)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Compute ``|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))`` (Heusel et al. 2017) by torch-fidelity, in float64."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first, second = ({"mu": of.mean, "sigma": of.covariance} for of in (one, other))
    # Rounding puts equal sets a little under 0.
    return max(0.0, float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]))


def inception_is_here() -> bool:
    """Return whether Inception's weights are in PyTorch's cache."""
    return Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_FILE).is_file()


class Inception:
    """torch-fidelity's port of the Inception that FID is defined by (2015-12-05): images to 2048 features.

    Images of any size are scaled to 299 x 299 as TensorFlow 1 did.
    """

    def __init__(self, weights: str | os.PathLike[str] | None, device: torch.device) -> None:
        """Load ``weights``, a file; None looks where `find_weights` does.

        Raises ``MissingDependencyError`` without torch-fidelity, ``WeightsError`` where the file is missing, damaged
        or another network's.
        """
        try:
            from torch_fidelity import FeatureExtractorInceptionV3
        except ImportError as error:
            why = f"rFID needs torch-fidelity, which cannot be imported ({error})"
            raise MissingDependencyError(why, "torch-fidelity", "torchvision", extra="eval") from error
        path = find_weights(
            weights, what="rFID's Inception", file=WEIGHTS_FILE, hub=None, url=WEIGHTS_URL, option="--inception-weights"
        )
        self.device = device
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=_safe(path)
            )
        except RuntimeError as error:
            raise WeightsError(
                f"{path} does not hold the weights of torch-fidelity's Inception ({one_line(error, line=1)}): get them "
                f"from {WEIGHTS_URL}"
            ) from error
        self._network = network.to(device)

    def __call__(self, images: Pixels) -> NDArray[np.float64]:
        """Uint8 [B, H, W, 3] -> float64 [B, 2048]."""
        with torch.inference_mode():
            pixels: Tensor = to_tensor(images, self.device).permute(0, 3, 1, 2)
            (features,) = self._network(pixels)
        return np.asarray(features.double().cpu().numpy())


def _safe(path: Path) -> BytesIO:
    """Return a file's tensors as a file that torch-fidelity may read: it reads with ``weights_only=False``."""
    data = BytesIO()
    torch.save(read_state(path), data)
    data.seek(0)
    return data


class FrechetMeter:
    """Frechet distances of several sets of images to the originals, batch by batch.

    Holds a covariance of 32 MB (2048 features) for the originals and each set, however many images there are.
    """

    def __init__(self, extractor: Callable[[Pixels], NDArray[np.float64]]) -> None:
        """``extractor`` takes images uint8 [B, H, W, 3] and gives features [B, n]."""
        self._extractor = extractor
        self._originals: Gaussian | None = None
        self._sets: dict[str, Gaussian] = {}

    def add(self, originals: Pixels, sets: Mapping[str, Pixels]) -> None:
        """Take in a batch of originals uint8 [B, H, W, 3] and the same images in each of the sets."""
        self._originals = self._grown(self._originals, originals)
        for name, images in sets.items():
            self._sets[name] = self._grown(self._sets.get(name), images)

    def _grown(self, of: Gaussian | None, images: Pixels) -> Gaussian:
        features = self._extractor(images)
        of = of or Gaussian(features.shape[1])
        of.add(features)
        return of

    def distances(self) -> dict[str, float]:
        """Return each set's distance to the originals; none before there are two images."""
        if self._originals is None or self._originals.count < 2:
            return {}
        return {name: frechet_distance(self._originals, of) for name, of in self._sets.items()}
