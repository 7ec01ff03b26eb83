"""What processes that train together tell each other; with one process, or none set up, each function is the identity.

Every process must make the same calls in the same order. Means are over processes, so each must hold as many images as
the others.
"""

from __future__ import annotations

import json
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Mean(torch.autograd.Function):
    """PyTorch's own differentiable all-reduce is deprecated, its successor private."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return mean_detached(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # L = mean_s L_s(m), m = mean_r x_r(p), so dL/dp = mean_r (mean_s dL_s/dm) dx_r/dp. The outer mean is what
        # averaging the parameters' gradients does, so process r must pass on the inner one: the mean of what arrives.
        return cast(Tensor, _Mean.apply(gradient))  # type: ignore[no-untyped-call]


def mean(tensor: Tensor) -> Tensor:
    """Return the mean over processes of a floating tensor of one shape, with gradients.

    When the parameters' gradients are averaged over processes afterwards, as DistributedDataParallel does, they are
    those of one process that computes the mean of all losses from all images.
    """
    return tensor if world() == 1 else cast(Tensor, _Mean.apply(tensor))  # type: ignore[no-untyped-call]


def mean_detached(tensor: Tensor) -> Tensor:
    """Return the mean over processes without gradients, for statistics and logs."""
    if world() == 1:
        return tensor.detach()
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / world()


def any_process(flag: bool) -> bool:
    """Return whether ``flag`` is set in any process; the same answer in each."""
    if world() == 1:
        return flag
    found = torch.tensor([flag], dtype=torch.int32, device=_device())
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())


def gather_names(names: list[str]) -> list[str]:
    """Return every process's names, in the order of the ranks; the same list in each."""
    if world() == 1:
        return names
    # As JSON in bytes: PyTorch's all_gather_object would unpickle what the others send.
    data = torch.frombuffer(bytearray(json.dumps(names).encode()), dtype=torch.uint8).to(_device())
    lengths = [torch.zeros(1, dtype=torch.int64, device=data.device) for _ in range(world())]
    dist.all_gather(lengths, torch.tensor([len(data)], device=data.device))
    sizes = [int(length.item()) for length in lengths]
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=data.device)
    padded[: len(data)] = data
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    texts = [bytes(part[:size].tolist()) for part, size in zip(parts, sizes, strict=True)]
    return [name for text in texts for name in json.loads(text)]


def _device() -> torch.device:
    # NCCL reduces only what lies on a GPU.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
