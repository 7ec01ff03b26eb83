"""What two processes compute together in tests/deploy/test_distributed.py; run as a program, this is the second one."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from coda_deploy import distributed
from coda_deploy.train.discriminator import Discriminator, GlobalBatchNorm, generator_loss, hinge_loss

WORLD = 2
NAMES = [["b.png", "é/ü ☃.png", 'quo"te'], ["a.png"]]


def share(x: Tensor) -> Tensor:
    """This process's images of a global batch."""
    return x.chunk(distributed.world())[distributed.rank()]


def gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Averaged over the processes, as DistributedDataParallel does."""
    return [distributed.mean_detached(gradient) for gradient in torch.autograd.grad(loss, parameters)]


def entropy_like() -> list[Tensor]:
    """``sum(m log m)`` of a batch mean, plus a term of each image's own; the loss and its gradients."""
    torch.manual_seed(1)
    weight, inputs = torch.randn(5, 7, dtype=torch.double).requires_grad_(), torch.randn(6, 5, dtype=torch.double)
    probs = (share(inputs) @ weight).softmax(-1)
    m = distributed.mean(probs.mean(0))
    loss = (m * m.log()).sum() + probs.square().sum(-1).mean()
    # The mean's own gradient depends on the weight: a second derivative.
    (first,) = torch.autograd.grad(loss, weight, create_graph=True)
    return [distributed.mean_detached(loss), *gradients(loss, [weight]), first.detach()]


def batch_norm() -> list[Tensor]:
    """The outputs, and the gradients of the parameters and of the inputs."""
    torch.manual_seed(2)
    norm, x, w = GlobalBatchNorm(4).double(), torch.randn(6, 4, 9) + 5, torch.randn(6, 4, 9)
    inputs = share(x).requires_grad_()
    found = norm(inputs)
    loss = (share(w) * found.sin()).mean()
    (own,) = torch.autograd.grad(loss, inputs, retain_graph=True)
    # Each process's loss is a mean over fewer images than one process's would be.
    return [found.detach(), own / distributed.world(), *gradients(loss, list(norm.parameters()))]


def discriminator() -> list[Tensor]:
    """Both losses and the gradients of all parameters, after two optimiser steps."""
    torch.manual_seed(3)
    net = Discriminator(8, 2)
    parameters = list(net.parameters())
    # Not Adam: it makes whole steps of the rounding errors which are all that a bias before a batch norm receives.
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    found: list[Tensor] = []
    for _ in range(3):
        real, fake = torch.randn(2, 6, 8, 12), torch.randn(2, 6, 8, 12)
        judged = net([share(x) for x in real]), net([share(x) for x in fake])
        loss = hinge_loss(*judged)
        averaged = gradients(loss, parameters)
        for parameter, gradient in zip(parameters, averaged, strict=True):
            parameter.grad = gradient
        found = [*(distributed.mean_detached(x) for x in (loss, generator_loss(judged[1]))), *averaged]
        optimizer.step()
    return [*found, *net.state_dict().values()]


def messages() -> list[object]:
    rank = distributed.rank()
    return [
        distributed.world(),
        rank,
        distributed.any_process(False),
        distributed.any_process(rank == 1),
        distributed.gather_names(NAMES[rank]),
        distributed.gather_names([]),
        distributed.mean_detached(torch.tensor([1.0 + rank, 10.0])).tolist(),
    ]


def together(rank: int, folder: Path) -> dict[str, list[object]]:
    """Everything above in one of two processes; what both must have the same is compared by the caller."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=120)
    )
    try:
        functions = (entropy_like, batch_norm, discriminator, messages)
        return {function.__name__: list(function()) for function in functions}
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.save(together(1, Path(sys.argv[1])), Path(sys.argv[1]) / "second.pt")
