"""``train``: from a configuration, a VAE and images to a tokenizer folder, through checkpoints that lose nothing.

Everything random is drawn from the seed and the step, and batch number n is the same whenever it is asked for. A run
that was killed and resumed therefore computes what an uninterrupted one does.
"""

from __future__ import annotations

import os
import signal
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator

from coda_deploy.data import Crop, ImageSource, TrainBatch, TrainLoader, open_source
from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.config import ConfigError
from coda_deploy.train import checkpoint, distributed
from coda_deploy.train.beginning import make_objective, warm_up
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.figures import Window
from coda_deploy.train.pictures import write_grid
from coda_deploy.train.report import Report
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.signals import StopRequest, stop_requests
from coda_deploy.train.state import RunState
from coda_deploy.train.step import Stepper
from coda_runtime.errors import CodaError
from coda_runtime.outputs import staged_file

CONFIG_COPY, PICTURES, SKIPPED = "train.toml", "pictures", "skipped.json"
GRID_IMAGES = 4
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Figures = dict[str, float]


class StoppedError(CodaError):
    """A signal ended the training after a checkpoint was written; ``signal`` is its number."""

    def __init__(self, number: int, step: int, out: Path) -> None:
        self.signal = number
        name = signal.Signals(number).name
        super().__init__(f"{name}: saved at step {step} in {out}; go on with the same command and --resume")


class DivergedError(CodaError):
    """A loss became NaN or infinite."""


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

    Raises ``ConfigError``, ``WeightsError``, ``DataError`` or ``OutputError`` before any work is done;
    ``DivergedError`` for a loss that is not finite, naming the batch; ``StoppedError`` after SIGTERM or Ctrl-C.
    """
    folder = Path(out)
    found = checkpoint.list_checkpoints(folder)
    if not resume and (found or (folder / "config.json").exists()):
        raise ConfigError(f"{folder} holds a training already: give --resume to go on with it, or another --out")
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=None if config.save.tracking == "none" else config.save.tracking,
        project_dir=str(folder),
    )
    with stop_requests() as request:
        run = _Run(config, open_source(data), folder, accelerator)
        if found:
            run.resume(found[-1])
        else:
            run.start(vae, resume)
        return run.loop(request)


class _Run:
    def __init__(self, config: TrainConfig, source: ImageSource, out: Path, accelerator: Accelerator) -> None:
        self.config, self.source, self.out, self.accelerator = config, source, out, accelerator
        self.main: bool = accelerator.is_main_process
        self.report = Report(out, active=self.main)
        optim = config.optim
        self.images_per_step = optim.batch * optim.accumulate * distributed.world()
        steps = optim.steps or max(1, round(optim.epochs * len(source) / self.images_per_step))
        self.schedule = Schedule(steps, optim, config.loss)
        self.loader = self._loader(optim.seed, optim.batch, distributed.rank(), distributed.world())
        self.first, self.skipped = 0, dict[str, str]()

    def start(self, vae: str | os.PathLike[str] | None, resume: bool) -> None:
        """A fresh tokenizer, its quantizer warmed up on latents where the configuration says so."""
        tokenizer = build_tokenizer(self.config, vae)
        self._prepare(tokenizer)
        if resume:
            self.report.say(f"no checkpoint in {self.out} yet: starting from the beginning")
        if self.main:
            self.out.mkdir(parents=True, exist_ok=True)
            with staged_file(self.out / CONFIG_COPY) as file:
                file.write_text(self.config.to_toml(), encoding="utf-8")
        self.report.restart_log(-1)
        if self.config.warmup.images:
            loader = self._loader(self.config.optim.seed + 1, self.config.warmup.batch, 0, 1)
            with closing(loader.batches()) as batches:
                warm_up(self.config, tokenizer, (self._note(batch).images for batch in batches), self.report)
            self.state.restart_averages()
            self._save(0)

    def resume(self, place: Path) -> None:
        """Everything as the checkpoint left it."""
        tensors, facts = checkpoint.load_checkpoint(place)
        checkpoint.check_same_run(facts, self.config, self.images_per_step, place)
        self._prepare(CodaTokenizer.from_pretrained(place))
        self.state.load(tensors, str(place))
        self.first, self.skipped = facts.step, dict(facts.skipped)
        self.report.restart_log(facts.step)
        self.report.say(f"going on from step {facts.step} of {self.schedule.total}")

    def loop(self, request: StopRequest) -> Figures:
        """From ``first`` to the end; leaves the tokenizer folder at ``out``."""
        total, save = self.schedule.total, self.config.save
        stepper = Stepper(self.config, self.accelerator, self.state, self.objective, self.schedule)
        window, figures, saved = Window(self.state.seen, self.images_per_step), Figures(), self.first
        self._track()
        with (
            self.report.phase("step", total, self.first) as phase,
            closing(self.loader.batches(self.first * self.config.optim.accumulate)) as batches,
        ):
            for step in range(self.first, total):
                micro = [self._note(batch) for batch in islice(batches, self.config.optim.accumulate)]
                window.add(stepper.run(step, micro), request.signal)
                done = step + 1
                if window.diverged:
                    raise self._diverged(step, window.diverged, micro, saved)
                if done % save.log == 0 or done == total:
                    figures = {"step": done, "epoch": self._epoch(done), **window.read()}
                    figures["lr"] = self.config.optim.lr * self.schedule.learning_rate(step)
                    phase.show(done, figures)
                    self.report.write(figures)
                    self.accelerator.log(figures, step=done)
                phase.advance(done)
                if save.pictures and (done % save.pictures == 0 or done == total):
                    self._picture(done)
                if done % save.every == 0 or done == total or window.stop:
                    self._save(done)
                    saved = done
                if window.stop and done < total:
                    raise StoppedError(window.stop, done, self.out)
        self._finish()
        return figures

    def _loader(self, seed: int, batch: int, rank: int, world: int) -> TrainLoader:
        data = self.config.data
        crop = Crop(
            self.config.tokenizer.image_size,
            zoom=data.zoom,
            flip=data.flip,
            upscale=data.upscale,
            zoom_max=data.zoom_max or None,
        )
        return TrainLoader(self.source, crop, batch_size=batch, seed=seed, rank=rank, world=world, workers=data.workers)

    def _prepare(self, tokenizer: CodaTokenizer) -> None:
        device = self.accelerator.device
        tokenizer.to(device).train()
        tokenizer.vae.to(memory_format=torch.channels_last)
        self.objective = make_objective(self.config, device)
        critic = self.objective.critic
        self.state = RunState(tokenizer, None if critic is None else critic.heads, self.config.optim)
        if self.main:
            checkpoint.tidy(self.out)
            checkpoint.check_room(self.out, tokenizer, self.state.tensors(), self.config.save.keep)

    def _note(self, batch: TrainBatch) -> TrainBatch:
        for skipped in batch.skipped:
            if skipped.name not in self.skipped:
                self.skipped[skipped.name] = skipped.reason
                self.report.say(f"skipped {skipped.name}: {skipped.reason}")
        return batch

    def _epoch(self, step: int) -> float:
        return step * self.images_per_step / len(self.source)

    def _track(self) -> None:
        if self.config.save.tracking != "none":
            flat = {f"{s}.{k}": str(v) for s, table in self.config.to_json().items() for k, v in table.items()}
            self.accelerator.init_trackers(self.config.save.project, config=flat)

    def _picture(self, step: int) -> None:
        if self.main:
            with closing(self._loader(self.config.optim.seed, GRID_IMAGES, 0, 1).batches()) as batches:
                images = next(batches).images.to(self.accelerator.device)
            with self.state.ema.applied():
                write_grid(self.out / PICTURES / f"step-{step:08}.png", self.state.tokenizer, images)

    def _save(self, step: int) -> None:
        if self.main:
            facts = checkpoint.Facts(
                step, self.config.to_json(), self.images_per_step, self.skipped, checkpoint.versions()
            )
            # Copied before the averages take the parameters' place.
            tensors = {name: tensor.to("cpu", copy=True) for name, tensor in self.state.tensors().items()}
            with self.state.ema.applied():
                checkpoint.save_checkpoint(self.out, self.state.tokenizer, tensors, facts, self.config.save.keep)
        self.accelerator.wait_for_everyone()

    def _diverged(self, step: int, term: str, micro: list[TrainBatch], saved: int) -> DivergedError:
        names = distributed.gather_names([name for batch in micro for name in batch.names])
        return DivergedError(
            f"{term} is not finite at step {step + 1}, on the images {', '.join(names)}; the last checkpoint is of "
            f"step {saved}: lower optim.lr or optim.clip, use optim.precision=fp32, or take these images out"
        )

    def _finish(self) -> None:
        if self.main:
            with self.state.ema.applied():
                self.state.tokenizer.save_pretrained(self.out, dtype=DTYPES[self.config.save.dtype])
        self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
