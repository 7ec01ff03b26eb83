"""Trainings small enough for tests: a VAE of 10,000 weights on images of 16 pixels, a second for a dozen steps."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from coda_deploy.train.config import TrainConfig
from coda_deploy.train.trainer import train
from tests.tiny_tokenizers import enliven, images

SIZE = 16
SETTINGS = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 4,
    "mid_block_add_attention": False,
}
PLAIN: dict[str, dict[str, Any]] = {
    "tokenizer": {
        "variant": "tiny",
        "image_size": SIZE,
        "vocab_size": 32,
        "scales": [1, 2, 4, 8],
        "attention_dim": 8,
        "lora_rank": 2,
    },
    "data": {"zoom": 1.125, "workers": 0},
    # No line of the log ends where a checkpoint is written, but for the last.
    "optim": {"steps": 6, "batch": 4, "lr": 1e-2, "lr_quantizer": 1e-2, "ema": 0.5, "ema_start": 0.3},
    "loss": {"lpips": 0.0, "gan": 0.0},
    "save": {"every": 2, "log": 3, "pictures": 0, "keep": 2},
}


def make_vae() -> AutoencoderKL:
    vae = AutoencoderKL(**SETTINGS)
    enliven(vae)
    return vae.eval()


def write_photos(folder: Path, count: int = 14) -> Path:
    """Not a whole number of batches, and wider than a crop."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images(count, 20)):
        Image.fromarray(pixels.numpy()).save(folder / f"{number:02}.png")
    return folder


def config(**sections: dict[str, Any]) -> TrainConfig:
    """PLAIN with some keys changed."""
    names = PLAIN.keys() | sections.keys()
    return TrainConfig.from_tables({name: PLAIN.get(name, {}) | sections.get(name, {}) for name in names})


class Workspace:
    """A VAE, photographs, and a folder for results."""

    def __init__(self, root: Path) -> None:
        self.vae, self.photos, self.root = root / "vae", write_photos(root / "photos"), root
        make_vae().save_pretrained(self.vae)

    def train(self, out: Path, config: TrainConfig, *, resume: bool = False) -> dict[str, float]:
        return train(config, self.photos, out, vae=self.vae, resume=resume)


def log(out: Path) -> list[dict[str, float]]:
    """log.jsonl but for the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def weights(out: Path, step: int | None = None) -> dict[str, Tensor]:
    """The tokenizer at ``out``, or everything that a checkpoint holds."""
    if step is None:
        return load_file(out / "model.safetensors")
    folder = out / "checkpoints" / f"step-{step:08}"
    return load_file(folder / "model.safetensors") | load_file(folder / "training.safetensors")


def unaligned(module: nn.Module) -> list[str]:
    """Parameters and buffers that do not begin as PyTorch's allocator aligns them, at 64 bytes."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return [name for name, tensor in tensors.items() if tensor.data_ptr() % 64]


def same_run(out: Path, other: Path, step: int) -> None:
    """Equal to the last bit: the log, the last checkpoint with all its states, and the tokenizer."""
    assert log(out) == log(other)
    for one, two in ((weights(out), weights(other)), (weights(out, step), weights(other, step))):
        assert one.keys() == two.keys()
        assert [name for name in one if not torch.equal(one[name], two[name])] == []


def forked(function: Callable[[], object], output: Path, timeout: float = 120) -> Iterator[int]:
    """Run in a copy of this process: yields its id, then its exit status, negative for a signal.

    A second where a new process would import for many. What it prints goes to ``output``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            faulthandler.dump_traceback_later(max(1, timeout - 10), file=file)  # where it hangs, if it does
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            torch.set_num_threads(1)
            function()
            status = 0
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    yield pid
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            yield os.waitstatus_to_exitcode(status)
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"still running after {timeout} s: {output.read_text()}")


def in_a_fork(function: Callable[[], object], output: Path) -> int:
    """Its exit status."""
    run = forked(function, output)
    next(run)
    return next(run)


def together(function: Callable[[], object], folder: Path, world: int = 2) -> None:
    """Run in ``world`` processes that find each other as those of torchrun do. Fails if one of them does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def member(rank: int) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            OMP_NUM_THREADS="1",
        )
        function()

    outputs = [folder / f"rank-{rank}.txt" for rank in range(world)]
    runs = [forked(lambda rank=rank: member(rank), output) for rank, output in enumerate(outputs)]
    for run in runs:
        next(run)
    statuses = [next(run) for run in runs]
    assert statuses == [0] * world, "\n".join(output.read_text() for output in outputs)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, and no thread pool that a fork would lose."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def one_thread_each_module() -> Iterator[None]:
    """For the tests of a module, or below a conftest, that binds a name to it."""
    with one_thread():
        yield
