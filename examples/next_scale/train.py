"""A tiny next-scale transformer, trained on a folder of tokens; then pictures that it makes up.

    coda tokenize BUNDLE photos/ --out tokens
    python examples/next_scale/train.py BUNDLE tokens --out pictures.png

The tokens of a scale are predicted all at once from the coarser scales. What a scale sees of them is what the decoder
would: the values of their codes, upsampled, added up, and pooled to its own side. It reports the loss on every tenth
image, which it was not trained on, in nats a token, beside that of a model which knows only how often each code occurs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

import coda_runtime
from coda_deploy.tokens import TokenDataset
from coda_runtime.codes.resample import area_matrix, upsample_matrix

Matrix = Callable[[int, int], NDArray[np.float32]]


class NextScale(nn.Module):
    """Logits of the tokens of each scale, from the scales before it."""

    def __init__(self, spec: coda_runtime.Spec, codebook: Tensor, width: int, layers: int) -> None:
        super().__init__()
        self.shapes, self.lengths = spec.scale_shapes, [height * width for height, width in spec.scale_shapes]
        self.codebook = codebook / codebook.std()
        self.up = [self._both(upsample_matrix, spec, shape) for shape in self.shapes]
        self.pool = [self._both(area_matrix, spec, shape) for shape in self.shapes]
        scale = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        self.hidden = scale[:, None] < scale[None, :]
        self.look = nn.Linear(codebook.shape[1], width)
        self.position = nn.Parameter(torch.randn(spec.num_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        # A code is likely by where its value lies: a Gaussian's log-density is linear in a value and its square.
        self.features = torch.cat([self.codebook, self.codebook**2], dim=1)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, self.features.shape[1])
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.often = nn.Parameter(torch.zeros(spec.vocab_size))

    def forward(self, scales: list[Tensor]) -> Tensor:
        """int64 [B,s*s] of each known scale -> float32 [B,n,V], logits of these scales and of the next one."""
        total = torch.zeros(len(scales[0]) if scales else 1, self.codebook.shape[1], *self.shapes[-1])
        seen = [self._pooled(total, 0)]
        for number, ids in enumerate(scales):
            values = self.codebook[ids].transpose(1, 2).unflatten(2, self.shapes[number])
            down, across = self.up[number]
            total = total + down @ values @ across.T
            seen.append(self._pooled(total, number + 1))
        x = self.look(torch.cat(seen, dim=1))
        x = x + self.position[: x.shape[1]]
        for block in self.blocks:
            x = block(x, src_mask=self.hidden[: x.shape[1], : x.shape[1]])
        logits: Tensor = self.head(self.norm(x)) @ self.features.T + self.often
        return logits

    def _pooled(self, total: Tensor, number: int) -> Tensor:
        down, across = self.pool[number]
        return (down @ total @ across.T).flatten(2).transpose(1, 2)

    @staticmethod
    def _both(matrix: Matrix, spec: coda_runtime.Spec, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        (height, width), (rows, columns) = spec.latent_shape, shape
        return torch.from_numpy(matrix(height, rows).copy()), torch.from_numpy(matrix(width, columns).copy())

    def loss(self, ids: Tensor) -> Tensor:
        """Nats a token of ids int64 [B,L]."""
        logits = self(list(ids.split(self.lengths, dim=1)[:-1]))
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten())

    @torch.no_grad()
    def generate(self, count: int, temperature: float) -> Tensor:
        """Ids int64 [count,L], scale by scale."""
        scales: list[Tensor] = []
        for length in self.lengths:
            odds = (self(scales)[:, -length:] / temperature).softmax(-1).expand(count, -1, -1)
            scales.append(torch.multinomial(odds.flatten(0, 1), 1).view(count, length))
        return torch.cat(scales, dim=1)


def frequencies_loss(train: Tensor, test: Tensor, codes: int) -> float:
    """Nats a token of `test`, int64 [N,L], for a model that knows how often each code is in `train`, plus one."""
    counts = torch.bincount(train.flatten(), minlength=codes).double() + 1
    return float(-(counts / counts.sum()).log()[test.flatten()].mean())


def train(model: NextScale, data: Subset[dict[str, Tensor]], steps: int, batch: int, rate: float) -> None:
    """AdamW with one cycle of the learning rate."""
    loader = DataLoader(data, batch, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    step = 0
    while step < steps:
        for items in loader:
            loss = model.loss(items["ids"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 25 == 0:
                sys.stderr.write(f"step {step}: {loss.item():.3f} nats a token\n")
            step += 1
            if step == steps:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("tokens")
    parser.add_argument("--out", type=Path, default=Path("pictures.png"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--across", type=int, default=4, help="pictures in a row, and rows")
    parser.add_argument("--temperature", type=float, default=0.8)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = TokenDataset(args.tokens)
    if len(data) < 10:
        parser.error(f"{args.tokens} has {len(data)} images; expected 10 or more")
    with coda_runtime.load(args.bundle) as tok:
        if tok.spec != data.spec:
            parser.error(f"{args.tokens} was not made with {args.bundle}")
        model = NextScale(data.spec, torch.from_numpy(tok.codebook.copy()), args.width, args.layers)
        held_out = range(9, len(data), 10)
        kept = [number for number in range(len(data)) if number not in held_out]
        train(model, Subset(data, kept), args.steps, min(args.batch, len(kept)), args.rate)
        known, test = (torch.stack([data[number]["ids"] for number in part]) for part in (kept, held_out))
        with torch.no_grad():
            loss = float(np.mean([model.loss(ids[None]).item() for ids in test]))
        frequencies = frequencies_loss(known, test, data.spec.vocab_size)
        sys.stdout.write(json.dumps({"loss": loss, "frequencies": frequencies}) + "\n")
        images = tok.decode(model.eval().generate(args.across**2, args.temperature).numpy())
    grid = images.reshape(args.across, args.across, *images.shape[1:]).transpose(0, 2, 1, 3, 4)
    height, width = args.across * data.spec.height, args.across * data.spec.width
    Image.fromarray(grid.reshape(height, width, 3)).save(args.out)


if __name__ == "__main__":
    main()
