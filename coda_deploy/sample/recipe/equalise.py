"""Change the basis of a VAE's latent so that an error of one costs the same in pixels in every direction.

The quantizer minimises the squared error of the latent; the picture's squared error is that error seen through the
decoder's Jacobian J. With M = mean of J^T J over positions and images, ``z' = M^(1/2) z`` makes the two agree on
average, and an average step of one in ``z'`` is one standard deviation. The VAE computes the same function: the matrix
goes into the encoder's last convolution, its inverse into the decoder's first.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coda_deploy.sample.recipe.vae import to_unit

PROBES = 4
BATCH = 16


def sensitivity(vae: AutoencoderKL, squares: np.ndarray) -> tuple[Tensor, Tensor]:
    """M and the latents' covariance, both [C, C]; M by random probes: E[(J^T v)(J^T v)^T] = J^T J for v ~ N(0, 1)."""
    total, covariance, count = 0.0, 0.0, 0
    for batch in np.split(squares, range(BATCH, len(squares), BATCH)):
        with torch.no_grad():
            latent = vae.encode(to_unit(batch)).latent_dist.mode()
        rows = latent.permute(1, 0, 2, 3).flatten(1).double()
        covariance = covariance + rows @ rows.T
        count += rows.shape[1]
        latent.requires_grad_(True)
        pixels = vae.decode(latent).sample
        for _ in range(PROBES):
            (grad,) = torch.autograd.grad((pixels * torch.randn_like(pixels)).sum(), latent, retain_graph=True)
            rows = grad.permute(1, 0, 2, 3).flatten(1).double()
            total = total + rows @ rows.T / PROBES
    return torch.as_tensor(total) / count, torch.as_tensor(covariance) / count


@torch.no_grad()
def change_basis(vae: AutoencoderKL, matrix: Tensor) -> None:
    """Make the latent's mean ``matrix`` [C, C] times what it was; decode(encode(x)) stays as it is."""
    channels = matrix.shape[0]
    out, first = vae.encoder.conv_out, vae.decoder.conv_in
    means = out.weight[:channels].double()
    out.weight[:channels] = torch.einsum("ij,jklm->iklm", matrix, means).float()
    out.bias[:channels] = (matrix @ out.bias[:channels].double()).float()
    first.weight.copy_(torch.einsum("ojkl,ji->oikl", first.weight.double(), torch.linalg.inv(matrix)).float())


def equalise(vae: AutoencoderKL, squares: np.ndarray) -> None:
    """Change the latent's basis in place, from ``squares`` uint8 [N, H, W, 3]."""
    metric, covariance = sensitivity(vae, squares)
    values, vectors = torch.linalg.eigh(metric)
    root = vectors * values.clamp_min(values.max() * 1e-6).sqrt() @ vectors.T
    scale = torch.trace(root @ covariance @ root.T) / len(root)
    change_basis(vae, root / scale.sqrt())
