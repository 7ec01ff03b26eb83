"""``train``: from a configuration, a VAE and images to a tokenizer folder, through checkpoints that lose nothing.

Everything random is drawn from the seed and the step, and batch number n is the same whenever it is asked for. A run
that was killed and resumed therefore computes what an uninterrupted one does.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from signal import SIGTERM
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from coda_deploy import distributed
from coda_deploy.data import Crop, ImageSource, TrainBatch, TrainLoader, open_source
from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.config import ConfigError
from coda_deploy.train import checkpoint
from coda_deploy.train.beginning import make_objective, warm_up
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import SaveSection, TrainConfig
from coda_deploy.train.errors import DivergedError, StoppedError
from coda_deploy.train.figures import Window
from coda_deploy.train.launch import begin_tracking, check_agreement, make_accelerator
from coda_deploy.train.pictures import write_grid
from coda_deploy.train.report import Report, clock
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.signals import StopRequest, stop_requests
from coda_deploy.train.skips import Skips
from coda_deploy.train.state import RunState, own_memory
from coda_deploy.train.step import Stepper
from coda_runtime.errors import CodaError, OutputError
from coda_runtime.outputs import staged_file

__all__ = ["DivergedError", "StoppedError", "train"]

CONFIG_COPY, PICTURES = "train.toml", "pictures"
GRID_IMAGES = 4
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Figures = dict[str, float]


def train(
    config: TrainConfig,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vae: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Figures:
    """Train, and leave a tokenizer folder at ``out``; returns the last line of figures.

    ``data`` is whatever :func:`coda_deploy.data.open_source` opens, ``vae`` a folder or hub id that takes the place of
    the configuration's. With ``resume`` an interrupted run in ``out`` goes on, or a new one starts where there is none.
    Start it under torchrun or ``accelerate launch`` for many processes.

    Raises ``ConfigError``, ``WeightsError``, ``DataError``, ``OutputError`` or ``MissingDependencyError`` before any
    work is done; ``DivergedError`` for a loss that is not finite, naming the batch; ``StoppedError`` after SIGTERM or
    Ctrl-C; ``OutputError`` when the disk is full.
    """
    folder = Path(out)
    newest = _newest(folder, resume)
    accelerator = make_accelerator(config, folder)
    with stop_requests() as request:
        check_agreement(newest.name if newest else "", folder)
        report = Report(folder, active=accelerator.is_main_process)
        with report.busy("opening the images"):
            source = open_source(data)
            run = _Run(config, source, folder, accelerator, request, report)
        try:
            if newest:
                run.resume(newest)
            else:
                run.start(vae, resume)
            return run.loop()
        except (StoppedError, DivergedError):
            accelerator.end_training()
            raise


def _newest(out: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from. Raises ``ConfigError`` or ``OutputError`` for a place that is taken."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the name of a folder to write to")
    found = checkpoint.list_checkpoints(out)
    if found and not resume:
        raise ConfigError(f"{out} holds a training already: give --resume to go on with it, or another --out")
    if not found and (out / "config.json").exists():
        raise ConfigError(f"{out} holds a model, and no checkpoints to go on from: choose another --out")
    return found[-1] if found else None


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        source: ImageSource,
        out: Path,
        accelerator: Accelerator,
        request: StopRequest,
        report: Report,
    ) -> None:
        self.config, self.source, self.out, self.accelerator = config, source, out, accelerator
        self.request = request
        self.main: bool = accelerator.is_main_process
        self.report = report
        self.skips = Skips(self.report)
        optim = config.optim
        self.images_per_step = optim.batch * optim.accumulate * distributed.world()
        steps = optim.steps or max(1, round(optim.epochs * len(source) / self.images_per_step))
        self.schedule = Schedule(steps, optim, config.loss)
        self.loader = self._loader(optim.seed, optim.batch, distributed.rank(), distributed.world())
        self.first, self.warming = 0, time.monotonic()
        self.kept: dict[str, Any] | None = None
        self.grid: Tensor | None = None

    def start(self, vae: str | os.PathLike[str] | None, resume: bool) -> None:
        """A fresh tokenizer, its quantizer warmed up on latents where the configuration says so."""
        with self.report.busy("loading the VAE"):
            tokenizer = build_tokenizer(self.config, vae)
        self._prepare(tokenizer)
        self._pulse("before the first step, with nothing to save")
        if resume:
            self.report.say(f"no checkpoint in {self.out} yet: starting from the beginning")
        if self.main:
            with staged_file(self.out / CONFIG_COPY) as file:
                file.write_text(self.config.to_toml(), encoding="utf-8")
        self.report.restart_log(-1)
        warmup = self.config.warmup
        if warmup.images or warmup.equalise:
            self.report.say("the warm-up comes first; it is saved when it is complete, not before")
            loader = self._loader(self.config.optim.seed + 1, warmup.batch, 0, 1)
            self.warming = time.monotonic()
            with closing(loader.batches()) as batches:
                warm_up(self.config, tokenizer, map(self._warm_images, batches), self.report, self._warm_pulse)
            self.state.restart_averages()
            window = Window(self.state.seen, self.images_per_step)
            self._save(0, window)
            self.kept = window.state()

    def resume(self, place: Path) -> None:
        """Everything as the checkpoint left it."""
        tensors, facts = checkpoint.load_checkpoint(place)
        checkpoint.check_same_run(facts, self.config, self.images_per_step, len(self.source), place)
        try:
            tokenizer = CodaTokenizer.from_pretrained(place)
        except CodaError as error:
            raise checkpoint.damaged(place, error) from error
        self._prepare(tokenizer)
        self.state.load(tensors, str(place))
        if not self.main:  # the first process has what all had seen
            self.state.seen.zero_()
        self.first, self.kept = facts.step, facts.window
        self.skips.restore(facts.skipped)
        self.report.restart_log(facts.step)
        self.report.say(f"going on from step {facts.step} of {self.schedule.total}")
        if changes := checkpoint.changes(facts):
            self.report.say(f"not as it was when it was saved: {changes}; the numbers may differ in the last digits")

    def loop(self) -> Figures:
        """From ``first`` to the end; leaves the tokenizer folder at ``out``."""
        total, save = self.schedule.total, self.config.save
        if self.first < total:
            self._train(total, save)
        if self.main:
            with self.state.ema.applied():
                self.state.tokenizer.save_pretrained(self.out, dtype=DTYPES[save.dtype])
            if self.skips.reasons:
                self.report.say(f"{len(self.skips.reasons)} images could not be used; the checkpoints name them")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.report.last()

    def _train(self, total: int, save: SaveSection) -> None:
        networks = (self.state.tokenizer, self.objective.lpips, self.objective.critic)
        own_memory(*(network for network in networks if network is not None))
        stepper = Stepper(self.config, self.accelerator, self.state, self.objective, self.schedule)
        window = Window(self.state.seen, self.images_per_step, self.kept)
        saved = self.first if self.kept is not None else None
        begin_tracking(self.config, self.accelerator)
        self.report.say(f"{len(self.source)} images, {total} steps of {self.images_per_step}")
        accumulate = self.config.optim.accumulate
        with (
            self.report.phase("step", total, self.first) as phase,
            closing(self.loader.batches(self.first * accumulate)) as batches,
        ):
            for step in range(self.first, total):
                micro = [self.skips.note(batch) for batch in islice(batches, accumulate)]
                window.add(stepper.run(step, micro), self.request.signal)
                done = step + 1
                if window.diverged:
                    names = distributed.gather_names([name for batch in micro for name in batch.names])
                    raise DivergedError.at(done, window.diverged, names, saved)
                if done % save.log == 0 or done == total:
                    figures = {"step": done, "epoch": self.loader.epoch(done * accumulate), **window.read()}
                    figures["lr"] = self.config.optim.lr * self.schedule.learning_rate(step)
                    phase.show(done, figures)
                    self.report.write(figures)
                    self.accelerator.log(figures, step=done)
                phase.advance(done)
                if save.pictures and (done % save.pictures == 0 or done == total):
                    self._picture(done)
                if done % save.every == 0 or done == total or window.stop:
                    self._save(done, window)
                    saved = done
                if window.stop and done < total:
                    raise StoppedError(window.stop, f"saved at step {done} in {self.out}")

    def _loader(self, seed: int, batch: int, rank: int, world: int, workers: int | None = None) -> TrainLoader:
        data, size = self.config.data, self.config.tokenizer.image_size
        crop = Crop(size, zoom=data.zoom, flip=data.flip, upscale=data.upscale, zoom_max=data.zoom_max or None)
        workers = data.workers if workers is None else workers
        return TrainLoader(self.source, crop, batch_size=batch, seed=seed, rank=rank, world=world, workers=workers)

    def _prepare(self, tokenizer: CodaTokenizer) -> None:
        device = self.accelerator.device
        tokenizer.to(device).train()
        tokenizer.vae.to(memory_format=torch.channels_last)
        with self.report.busy("loading the networks that judge"):
            self.objective = make_objective(self.config, device)
        critic = self.objective.critic
        self.state = RunState(tokenizer, None if critic is None else critic.heads, self.config.optim)
        if self.main:
            checkpoint.tidy(self.out)
            checkpoint.check_room(self.out, tokenizer, self.state.tensors(), self.config.save.keep)

    def _warm_images(self, batch: TrainBatch) -> Tensor:
        self._warm_pulse()
        return self.skips.note(batch).images

    def _warm_pulse(self) -> None:
        lost = clock(time.monotonic() - self.warming)
        self._pulse(f"in the warm-up, of which nothing is saved: {lost} of work are lost, it begins anew")

    def _pulse(self, lost: str) -> None:
        """Stop here where a signal has asked for it in any process."""
        if distributed.any_process(bool(self.request.signal)):
            raise StoppedError(self.request.signal or int(SIGTERM), lost)

    def _picture(self, step: int) -> None:
        if self.main:
            if self.grid is None:
                with closing(self._loader(self.config.optim.seed, GRID_IMAGES, 0, 1, workers=0).batches()) as batches:
                    self.grid = next(batches).images.to(self.accelerator.device)
            with self.state.ema.applied():
                write_grid(self.out / PICTURES / f"step-{step:08}.png", self.state.tokenizer, self.grid)

    def _save(self, step: int, window: Window) -> None:
        facts = checkpoint.Facts(
            step,
            self.config.to_json(),
            self.images_per_step,
            images=len(self.source),
            window=window.state(),
            skipped=self.skips.gather(),
            versions=checkpoint.versions(),
        )
        if self.main:
            # Copied before the averages take the parameters' place.
            tensors = {name: tensor.to("cpu", copy=True) for name, tensor in self.state.tensors().items()}
            with self.state.ema.applied():
                checkpoint.save_checkpoint(self.out, self.state.tokenizer, tensors, facts, self.config.save.keep)
        self.accelerator.wait_for_everyone()
