"""Change the basis of a VAE's latent so that an error of one costs the same in pixels in every direction.

The quantizer minimises the squared error of the latent; the image's squared error is that error seen through the
decoder's Jacobian J. With M = mean of J^T J over positions and images, ``z' = M^(1/2) z`` makes the two agree on
average; it is scaled so that what is quantised has a variance of one, averaged over channels. The VAE computes the
same function: the matrix goes into the encoder's last convolution, its inverse into the decoder's first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from coda_deploy.errors import ConfigError
from coda_deploy.families import Family

PROBES = 4
BATCH = 16
Progress = Callable[[int], None]


def make_isotropic(
    vae: nn.Module,
    family: Family,
    images: Tensor,
    generator: torch.Generator,
    latent_scale: float | tuple[float, ...] = 1.0,
    progress: Progress = lambda done: None,
) -> None:
    """Change the basis in place, measured on ``images``, float [N, 3, H, W] in [-1, 1]; ``generator`` on the CPU.

    ``latent_scale``, a number or one for each channel, is what the latent is multiplied with before it is quantised.
    ``progress`` is told how many of ``passes(N)`` are done, and may raise: the VAE is then as it was. Raises
    ``ConfigError`` for a VAE of a family that takes no other basis.
    """
    check_basis(vae, family)
    metric, covariance = sensitivity(vae, family, images, generator, progress)
    values, vectors = torch.linalg.eigh(metric)
    root = vectors * values.clamp_min(values.max() * 1e-6).sqrt() @ vectors.T
    scale = torch.trace(root @ covariance @ root.T) / len(root)
    wanted = torch.tensor(latent_scale, dtype=torch.float64, device=root.device).expand(len(root))[:, None]
    change_basis(vae, family, root / scale.sqrt() / wanted)


def check_basis(vae: nn.Module, family: Family) -> None:
    """Raise ``ConfigError`` where the VAE's family has no convolutions that take a change of basis."""
    if family.basis_ends(vae) is None:
        raise ConfigError(
            f"warmup.equalise changes the basis of the latent, which an {family.class_name} cannot: "
            f"{family.cannot.get('equalise', 'its last and first layers do not take one')}; set warmup.equalise = false"
        )


def passes(images: int) -> int:
    """Return how often that many images go through the VAE, backward passes counted."""
    return -(-images // BATCH) * (1 + PROBES)


def sensitivity(
    vae: nn.Module,
    family: Family,
    images: Tensor,
    generator: torch.Generator,
    progress: Progress = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """Measure M and the latents' covariance, float64 [C, C]; M by probes v ~ N(0, 1): E[(J^T v)(J^T v)^T] = J^T J."""
    channels = family.shape(family.settings(vae)).channels
    total = torch.zeros(channels, channels, dtype=torch.float64, device=images.device)
    second, first, count, done = total.clone(), total[0].clone(), 0, 0
    for batch in images.split(BATCH):
        with torch.no_grad():
            latent = family.encode(vae, batch).float()
        rows = latent.permute(1, 0, 2, 3).flatten(1).double()
        second += rows @ rows.T
        first += rows.sum(1)
        count += rows.shape[1]
        latent.requires_grad_(True)
        pixels = family.decode(vae, latent)
        progress(done := done + 1)
        for _ in range(PROBES):
            probe = torch.randn(pixels.shape, generator=generator).to(pixels.device)
            (gradient,) = torch.autograd.grad((pixels * probe).sum(), latent, retain_graph=True)
            rows = gradient.permute(1, 0, 2, 3).flatten(1).double()
            total += rows @ rows.T / PROBES
            progress(done := done + 1)
    mean = first / count
    return total / count, second / count - torch.outer(mean, mean)


@torch.no_grad()
def change_basis(vae: nn.Module, family: Family, matrix: Tensor) -> None:
    """Make the latent's mean ``matrix`` [C, C] times what it was; decode(encode(x)) stays as it is.

    Raises ``ConfigError`` as `check_basis` does.
    """
    check_basis(vae, family)
    channels = len(matrix)
    last, first = cast(tuple[nn.Conv2d, nn.Conv2d], family.basis_ends(vae))
    # The last convolution gives means and log-variances; only the means turn.
    means = last.weight[:channels].double()
    last.weight[:channels] = torch.einsum("ij,jklm->iklm", matrix, means).to(last.weight.dtype)
    if last.bias is not None:
        last.bias[:channels] = (matrix @ last.bias[:channels].double()).to(last.bias.dtype)
    inverse = torch.linalg.inv(matrix)
    first.weight.copy_(torch.einsum("ojkl,ji->oikl", first.weight.double(), inverse).to(first.weight.dtype))
