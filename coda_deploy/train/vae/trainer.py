"""``train_vae``: from images to a diffusers ``AutoencoderKL``, through checkpoints that lose nothing."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from coda_deploy.errors import DivergedError, StoppedError
from coda_deploy.tokenizer.vae import load_kl
from coda_deploy.train.loop import Metrics, RunContext, Training, run
from coda_deploy.train.step import BaseStepper, ForwardResult
from coda_deploy.train.vae.config import VaeTrainConfig
from coda_deploy.train.vae.model import VaeModel, VaeOutput

__all__ = ["DivergedError", "StoppedError", "train_vae"]


def train_vae(
    config: VaeTrainConfig,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vae: str | os.PathLike[str] | None = None,
    resume: bool = False,
    skip_bad: bool = True,
) -> Metrics:
    """Train a VAE, and leave a diffusers folder at ``out``, as ``coda train --vae`` takes it.

    It begins with the weights of ``vae``, a folder or hub id, or with random ones. ``data``, ``resume``, ``skip_bad``,
    what is returned and what is raised are those of `coda_deploy.train.trainer.train`.
    """
    return run(lambda context: _VaeTraining(config, vae, context), config, data, out, resume=resume, skip_bad=skip_bad)


class _VaeTraining(Training):
    config: VaeTrainConfig
    preparing = "making the VAE"

    def __init__(self, config: VaeTrainConfig, vae: str | os.PathLike[str] | None, context: RunContext) -> None:
        super().__init__(config, config.vae.image_size, context)
        self._vae = vae
        if vae is not None:
            self.inputs["vae"] = os.fspath(vae)

    def build(self) -> VaeModel:
        return (
            VaeModel.build(self.config) if self._vae is None else VaeModel.load_initial_weights(self._vae, self.config)
        )

    def read(self, path: Path) -> VaeModel:
        return VaeModel(load_kl(path))

    def make_stepper(self) -> VaeStepper:
        return VaeStepper(self.config, self.accelerator, self.state, self.objective, self.schedule)


class VaeStepper(BaseStepper):
    """Steps of a ``VaeModel``; the discriminator's weight is found at the decoder's last convolution."""

    config: VaeTrainConfig

    def last_weight(self) -> Tensor:
        """Return the decoder's last weight."""
        weight: Tensor = self.state.model.vae.decoder.conv_out.weight
        return weight

    def rates(self, factor: float) -> tuple[float, float, float]:
        """Return one rate for all."""
        rate = self.config.optim.lr * factor
        return rate, rate, rate

    def forward(self, images: Tensor, seed: int) -> ForwardResult:
        """Run through a sample of the posterior."""
        out: VaeOutput = self.model(images, seed)
        return ForwardResult(out.reconstruction, {"kl": (self.config.loss.kl, out.kl)})
