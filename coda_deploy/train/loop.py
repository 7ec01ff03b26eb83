"""What every training does around its steps: begin or go on, log, draw, save, stop, and leave the result.

Everything random is drawn from the seed and the step, and batch number n is the same whenever it is asked for. A run
that was killed and resumed therefore computes what an uninterrupted one does.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from signal import SIGTERM
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from coda_deploy import distributed
from coda_deploy.data import Crop, ImageSource, TrainLoader, open_source
from coda_deploy.data.source import printable
from coda_deploy.errors import ConfigError, DivergedError, ModuleNeededError, StoppedError
from coda_deploy.float32 import full_float32
from coda_deploy.train import checkpoint
from coda_deploy.train.launch import check_agreement, make_accelerator, start_tracking
from coda_deploy.train.learner import Learner
from coda_deploy.train.metrics import Window
from coda_deploy.train.objective import Objective
from coda_deploy.train.place import SAMPLES, check_apart, held
from coda_deploy.train.report import Report
from coda_deploy.train.sample_grid import write_grid
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.sections import Configuration
from coda_deploy.train.setup import make_objective
from coda_deploy.train.signals import StopRequest, stop_requests
from coda_deploy.train.skips import Skips
from coda_deploy.train.state import RunState, own_memory
from coda_deploy.train.step import BaseStepper
from coda_deploy.train.tables import literal
from coda_runtime.errors import CodaError, OutputError
from coda_runtime.format.precision import PRECISIONS
from coda_runtime.format.sizes import Size
from coda_runtime.io.atomic_files import staged_file
from coda_runtime.io.counts import count

CONFIG_COPY = "train.toml"
GRID_IMAGES = 4
Metrics = dict[str, float]


@dataclass(frozen=True)
class RunContext:
    """Where a training runs: its images, what names them, its folder, its processes, who may stop it or is told."""

    source: ImageSource
    data: str
    skip_bad: bool
    out: Path
    accelerator: Accelerator
    request: StopRequest
    report: Report


def run(
    make: Callable[[RunContext], Training],
    config: Configuration,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    skip_bad: bool = True,
) -> Metrics:
    """Train what ``make`` gives, from the newest checkpoint where ``resume`` is set; returns the last line of figures.

    Raises what `coda_deploy.train.trainer.train` does.
    """
    folder = Path(out)
    _newest(folder, resume)
    check_apart(folder, data)
    accelerator = make_accelerator(config, folder)
    with (
        full_float32(),  # cuDNN would take TF32 by itself; what bf16 is to compute is not touched
        stop_requests() as request,
        held(folder) if accelerator.is_main_process else nullcontext() as mark,
    ):
        newest = _newest(folder, resume)  # again: the run that held the folder may have gone on until now
        check_agreement(newest.name if newest else "", folder)
        report = Report(folder, active=accelerator.is_main_process)
        with report.busy("opening the images"):
            source = open_source(data, lambda text: report.say(f"warning: {text}"), mark=mark, color=config.data.color)
            training = make(RunContext(source, os.fspath(data), skip_bad, folder, accelerator, request, report))
        try:
            if newest:
                training.resume(newest)
            else:
                training.start(resume)
            return training.loop()
        except (StoppedError, DivergedError):
            accelerator.end_training()
            raise


def _newest(out: Path, resume: bool) -> Path | None:
    """Return the checkpoint to resume from. Raises ``ConfigError`` or ``OutputError`` where ``out`` is in use."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the name of a folder to write to")
    found = checkpoint.list_checkpoints(out)
    if found and not resume:
        raise ConfigError(f"{out} already holds a training run: give --resume to continue it, or another --out")
    if not found and (out / "config.json").exists():
        raise ConfigError(f"{out} holds a model but no checkpoints to resume from: choose another --out")
    return found[-1] if found else None


class Training(ABC):
    """One run, on one of its processes. A kind of training says what is built, read, warmed up and stepped."""

    preparing: ClassVar[str]  # what `build` does, in words
    state: RunState
    objective: Objective

    def __init__(self, config: Configuration, image_size: Size, context: RunContext) -> None:
        """Try a few images, cut to ``image_size``. Raises ``DataError``."""
        self.config, self.image_size, self.source, self.out = config, image_size, context.source, context.out
        self.accelerator, self.request, self.report = context.accelerator, context.request, context.report
        self.inputs = {"data": context.data}
        self.main: bool = context.accelerator.is_main_process
        self.skips = Skips(self.report, skip_bad=context.skip_bad)
        optim = config.optim
        self.images_per_step = optim.batch * optim.accumulate * distributed.world()
        steps = optim.steps or max(1, round(optim.epochs * len(self.source) / self.images_per_step))
        self.schedule = Schedule(steps, optim, config.loss)
        self.loader = self.make_loader(optim.seed, optim.batch, distributed.rank(), distributed.world())
        self.first = 0
        self.kept: dict[str, Any] | None = None
        self.grid: Tensor | None = None

    @abstractmethod
    def build(self) -> Learner:
        """Build a fresh model, drawn from the configuration's seed. Raises ``CodaError`` before any work is done."""

    @abstractmethod
    def read(self, path: Path) -> Learner:
        """Read the model that a checkpoint holds. Raises ``CodaError``."""

    @abstractmethod
    def make_stepper(self) -> BaseStepper:
        """Make what runs the steps, on the prepared state."""

    def warm_up(self) -> bool:
        """Do what comes before the first step, and return whether there was anything to save."""
        return False

    def start(self, resume: bool) -> None:
        """Start from step 0; ``resume`` says whether resuming was asked for."""
        with self.report.busy(self.preparing):
            model = self.build()
        self._prepare(model)
        self.pulse("before the first step, with nothing to save")
        if resume:
            self.report.say(f"no checkpoint in {self.out} yet: starting from step 0")
        if self.main:
            with staged_file(self.out / CONFIG_COPY) as file:
                file.write_text(self._inputs() + self.config.to_toml(), encoding="utf-8")
        self.report.restart_log(-1)
        if self.warm_up():
            self.state.restart_averages()
            window = Window(self.state.seen, self.images_per_step)
            self._save(0, window)
            self.kept = window.state()

    def resume(self, path: Path) -> None:
        """Restore everything as the checkpoint left it."""
        tensors, facts = checkpoint.load_checkpoint(path)
        checkpoint.check_same_run(facts, self.config, self.images_per_step, len(self.source), path)
        try:
            model = self.read(path)
        except ModuleNeededError:
            raise
        except CodaError as error:
            raise checkpoint.damaged(path, error) from error
        self._prepare(model)
        self.state.load(tensors, str(path))
        if not self.main:  # the first process has what all had seen
            self.state.seen.zero_()
        self.first, self.kept = facts.step, facts.window
        self.skips.restore(facts.skipped)
        self.report.restart_log(facts.step)
        self.report.say(f"resuming from step {facts.step} of {self.schedule.total}")
        if changes := checkpoint.changes(facts):
            self.report.say(f"changed since the checkpoint: {changes}; the numbers may differ in the last digits")

    def loop(self) -> Metrics:
        """Train from ``first`` to the end; leave the model's folder at ``out``."""
        try:
            if self.first < self.schedule.total:
                self._train(self.schedule.total)
        finally:
            self.skips.tell_ignored()
        if self.main:
            with self.state.ema.applied():
                self.state.model.save_pretrained(
                    self.out, dtype=getattr(torch, PRECISIONS[self.config.save.dtype].element_type)
                )
            if self.skips.reasons:
                self.report.say(
                    f"{count(len(self.skips.reasons), 'image')} could not be used; the checkpoints name them"
                )
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.report.last()

    def pulse(self, lost: str) -> None:
        """Stop here where a signal has asked for it in any process. Raises ``StoppedError`` saying what is ``lost``."""
        if distributed.any_process(bool(self.request.signal)):
            raise StoppedError(self.request.signal or int(SIGTERM), lost)

    def make_loader(self, seed: int, batch: int, rank: int, world: int, workers: int | None = None) -> TrainLoader:
        """Make a loader of batches of the images, cropped as the configuration says."""
        data = self.config.data
        crop = Crop(
            self.image_size, zoom=data.zoom, flip=data.flip, upscale=data.upscale, zoom_max=data.zoom_max or None
        )
        workers = data.workers if workers is None else workers
        pinned = self.accelerator.device.type == "cuda"
        return TrainLoader(
            self.source, crop, batch_size=batch, seed=seed, rank=rank, world=world, workers=workers, pinned=pinned
        )

    def _inputs(self) -> str:
        """Return what the run was given beside its configuration, as comments of that file."""
        told = {name: literal(printable(value)) for name, value in self.inputs.items()}
        told["data"] += f", {count(len(self.source), 'image')}"
        return "".join(f"# {name} = {value}\n" for name, value in told.items()) + "\n"

    def _train(self, total: int) -> None:
        critic = self.objective.critic
        judges = (self.objective.lpips, critic, None if critic is None else critic.features)
        own_memory(self.state.model, *(network for network in judges if network is not None))
        stepper, save = self.make_stepper(), self.config.save
        window = Window(self.state.seen, self.images_per_step, self.kept)
        saved = self.first if self.kept is not None else None
        start_tracking(self.config, self.accelerator)
        self.report.say(f"{count(len(self.source), 'image')}, {count(total, 'step')} of {self.images_per_step}")
        accumulate = self.config.optim.accumulate
        kept_every = save.log, save.pictures, save.every
        with (
            self.report.phase("step", total, self.first) as phase,
            closing(self.loader.batches(self.first * accumulate)) as batches,
        ):
            recent: deque[list[str]] = deque(maxlen=2)
            for step in range(self.first, total):
                micro = [self.skips.note(batch) for batch in islice(batches, accumulate)]
                window.add(stepper.run(step, micro), self.request.signal)
                recent.append([name for batch in micro for name in batch.names])
                done = step + 1
                if window.stop or done == total or any(n and done % n == 0 for n in kept_every):
                    window.settle()  # what follows writes figures or weights: this step has to be known good
                if window.diverged:
                    names = distributed.gather_names(recent[-1 - window.late])
                    raise DivergedError.at(done - window.late, window.diverged, names, saved)
                if done % save.log == 0 or done == total:
                    metrics = {"step": done, "epoch": self.loader.epoch(done * accumulate), **window.read()}
                    metrics["lr"] = self.config.optim.lr * self.schedule.learning_rate(step)
                    phase.show(done, metrics)
                    self.report.write(metrics)
                    self.accelerator.log(metrics, step=done)
                phase.advance(done)
                if save.pictures and (done % save.pictures == 0 or done == total):
                    self._save_grid(done)
                if done % save.every == 0 or done == total or window.stop:
                    self._save(done, window)
                    saved = done
                if window.stop and done < total:
                    raise StoppedError(window.stop, f"saved at step {done} in {self.out}")

    def _prepare(self, model: Learner) -> None:
        device = self.accelerator.device
        model.to(device).train()
        model.vae.to(memory_format=torch.channels_last)
        with self.report.busy("loading the loss networks"):
            self.objective = make_objective(self.config, device)
        critic = self.objective.critic
        self.state = RunState(model, None if critic is None else critic.heads, self.config.optim)
        if self.main:
            checkpoint.tidy(self.out)
            checkpoint.check_room(self.out, model, self.state.tensors(), self.config.save.keep)

    def _save_grid(self, step: int) -> None:
        if self.main:
            if self.grid is None:
                with closing(self.make_loader(self.config.optim.seed, GRID_IMAGES, 0, 1, workers=0).batches()) as some:
                    self.grid = next(some).images.to(self.accelerator.device)
            with self.state.ema.applied():
                write_grid(self.out / SAMPLES / f"step-{step:08}.png", self.state.model, self.grid)

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
                checkpoint.save_checkpoint(self.out, self.state.model, tensors, facts, self.config.save.keep)
        self.accelerator.wait_for_everyone()
