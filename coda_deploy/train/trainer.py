"""``train``: from a configuration, a VAE and images to a tokenizer folder, through checkpoints that lose nothing."""

from __future__ import annotations

import dataclasses
import os
import time
from contextlib import closing
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from coda_deploy.data import TrainBatch
from coda_deploy.data.source import printable
from coda_deploy.errors import ConfigError, DivergedError, StoppedError
from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.python_module import is_python
from coda_deploy.tokenizer.vae import load_vae
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.loop import Metrics, RunContext, Training, run
from coda_deploy.train.report import clock
from coda_deploy.train.setup import warm_up
from coda_deploy.train.step import Stepper

__all__ = ["DivergedError", "StoppedError", "train"]


def train(
    config: TrainConfig,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vae: nn.Module | str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    skip_bad: bool = True,
) -> Metrics:
    """Train, and leave a tokenizer folder at ``out``; returns the last line of figures.

    ``data`` is whatever `coda_deploy.data.open_source` opens, ``vae`` what takes the place of the configuration's, as
    `coda_deploy.train.build.open_vae` takes it, or a module; with ``resume`` a module of the user's own is needed
    again. ``init`` is a tokenizer to start from instead: its weights are kept, for images of the configuration's size
    and under its schedule. With ``resume`` an interrupted run in ``out`` continues, or a new one starts if there is
    none.
    Start it under torchrun or ``accelerate launch`` for many processes.
    Images that cannot be read are named and replaced by the next one; without ``skip_bad`` the first ends the run.

    Raises ``ConfigError``, ``WeightsError``, ``DataError``, ``OutputError`` or ``MissingDependencyError`` before any
    work is done; ``DivergedError`` for a loss that is not finite, naming the batch; ``StoppedError`` after SIGTERM or
    Ctrl-C; ``OutputError`` when the disk is full.
    """
    if vae is not None and init is not None:
        raise ConfigError("both a VAE and a tokenizer to start from are given: leave out --vae or --init")
    # What is kept of the configuration names what it was made of.
    if vae is not None:
        config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, vae=_name(vae)))
    if init is not None:
        config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, init=_name(init)))
    return run(
        lambda context: _TokenizerTraining(config, vae, context), config, data, out, resume=resume, skip_bad=skip_bad
    )


def _name(what: nn.Module | str | os.PathLike[str]) -> str:
    return type(what).__name__ if isinstance(what, nn.Module) else printable(os.fspath(what))


Vae = nn.Module | str | os.PathLike[str]


class _TokenizerTraining(Training):
    config: TrainConfig
    preparing = "loading the VAE"

    def __init__(self, config: TrainConfig, vae: Vae | None, context: RunContext) -> None:
        super().__init__(config, config.tokenizer.image_size, context)
        self._vae, self._begun = vae, time.monotonic()

    def build(self) -> CodaTokenizer:
        return build_tokenizer(self.config, self._vae, self.report.say)

    def read(self, path: Path) -> CodaTokenizer:
        vae = self._vae
        given = vae if isinstance(vae, nn.Module) else load_vae(vae) if is_python(vae) and vae is not None else None
        return CodaTokenizer.from_pretrained(path, vae=given)

    def make_stepper(self) -> Stepper:
        return Stepper(self.config, self.accelerator, self.state, self.objective, self.schedule)

    def warm_up(self) -> bool:
        """Train the quantizer alone, on latents, where the configuration says so."""
        settings, tokenizer = self.config.warmup, cast(CodaTokenizer, self.state.model)
        if not (settings.images or settings.equalise):
            return False
        if self.config.tokenizer.init:
            self.report.say("no warm-up: the codes of the tokenizer that it starts from are kept")
            return False
        self.report.say("the warm-up comes first; it is not saved until it is complete")
        self._begun = time.monotonic()
        loader = self.make_loader(self.config.optim.seed + 1, settings.batch, 0, 1)
        with closing(loader.batches()) as batches:
            warm_up(self.config, tokenizer, map(self._warm_images, batches), self.report, self._warm_pulse)
        return True

    def _warm_images(self, batch: TrainBatch) -> Tensor:
        self._warm_pulse()
        return self.skips.note(batch).images

    def _warm_pulse(self) -> None:
        lost = clock(time.monotonic() - self._begun)
        self.pulse(f"during the warm-up, of which nothing is saved: {lost} of work is lost, and it will start over")
