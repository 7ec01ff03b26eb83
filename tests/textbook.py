"""The quantizer as the paper writes it: softmax, an explicit one-hot matrix, adaptive pooling. Shares no code with it.

Everything is computed in the dtype of what is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.tokenizer.quantizer import ResidualQuantizer

Norm = Callable[[Tensor], Tensor]


class Textbook(NamedTuple):
    ids: Tensor
    quantized: Tensor
    vq_loss: Tensor
    entropy_loss: Tensor


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """RMS norm and layer norm from their definitions."""
    if isinstance(module, nn.RMSNorm):
        return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight
    if isinstance(module, nn.LayerNorm):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias
    return x


def logits(q: ResidualQuantizer, rows: Tensor) -> Tensor:
    """Rows [N, C] -> [N, V]."""
    s = q.search
    query = norm(s.norm_q, rows @ s.to_q.weight.T + s.to_q.bias)
    keys = norm(s.norm_k, q.codebook @ s.to_k.weight.T + s.to_k.bias)
    return torch.einsum("nd,vd->nv", query, keys) / math.sqrt(keys.shape[1])


def pool(residual: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(residual, side).permute(0, 2, 3, 1).reshape(-1, residual.shape[1])


def spread(rows: Tensor, side: int, like: Tensor) -> Tensor:
    grid = rows.reshape(len(like), side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(grid, size=like.shape[-2:], mode="bicubic", align_corners=False)


def quantize(q: ResidualQuantizer, latent: Tensor) -> Textbook:
    """One training pass over latent [B, C, h, w]."""
    values = q.codebook @ q.search.to_v.weight.T + q.search.to_v.bias
    residual, total = latent, torch.zeros_like(latent)
    ids, vq, entropy = [], [], []
    for side in q.scales:
        target = pool(residual, side)
        scores = logits(q, target)
        soft = scores.softmax(-1)
        best = scores.argmax(-1)
        hard = F.one_hot(best, len(values)).to(latent.dtype)
        y = (hard + soft - soft.detach()) @ values
        y2 = hard @ values
        vq.append(
            (y - target).pow(2).mean()
            + (y2.detach() - target).pow(2).mean()
            + 0.05 * (y2 - target.detach()).pow(2).mean()
        )
        sharp = scores / 0.01
        p = sharp.softmax(-1)
        mean = p.mean(0)
        each = -(p * (sharp + 1e-5).log_softmax(-1)).sum(-1).mean()
        entropy.append(each - -(mean * (mean + 1e-5).log()).sum())
        up = spread(y, side, latent)
        total, residual = total + up, residual - up
        ids.append(best.reshape(len(latent), -1))
    return Textbook(torch.cat(ids, 1), total, sum(vq) / len(vq), sum(entropy) / len(entropy))


@torch.no_grad()
def regret(q: ResidualQuantizer, latent: Tensor, ids: Tensor, rows_at_once: int = 256) -> Tensor:
    """By how much each id's score falls short of the best one, [B, L]: 0 for the right id, tiny for a near tie.

    Each scale searches the residual that ``ids``' own earlier scales leave of ``latent``. Pass a quantizer and a
    latent in float64 to judge what float32 found.
    """
    values = q.codebook @ q.search.to_v.weight.T + q.search.to_v.bias
    residual, out, start = latent, [], 0
    for side in q.scales:
        given = ids[:, start : start + side * side].long().flatten()
        start += side * side
        short = []
        for rows, chosen in zip(pool(residual, side).split(rows_at_once), given.split(rows_at_once), strict=True):
            scores = logits(q, rows)
            short.append(scores.amax(-1) - scores.gather(-1, chosen[:, None])[:, 0])
        out.append(torch.cat(short).reshape(len(latent), -1))
        residual = residual - spread(values[given], side, latent)
    return torch.cat(out, 1)
