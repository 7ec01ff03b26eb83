"""Two small generators of tokens, with classes: next-scale, and masked as MaskGIT does it. They share a transformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import coda_runtime
from coda_deploy.tokens import NextScale


class Transformer(nn.Module):
    """Maps float32 [B,n,channels] of the first scales, with a class for each image, to logits [B,n,V]."""

    scale: Tensor
    features: Tensor

    def __init__(
        self, spec: coda_runtime.Spec, codebook: Tensor, channels: int, classes: int, width: int, layers: int
    ) -> None:
        super().__init__()
        self.shapes = spec.scale_shapes
        self.lengths = [height * across for height, across in self.shapes]
        self.register_buffer(
            "scale", torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        )
        # A token looks at its neighbours in its own scale first: what is missing there is most often an edge.
        self.look = nn.Conv2d(channels, width, 3, padding=1)
        self.position = nn.Parameter(torch.randn(spec.num_tokens, width) * 0.02)
        self.label = nn.Embedding(classes + 1, width)  # the last is no class
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        # A code is likely by where its value lies: a Gaussian's log-density is linear in a value and its square.
        values = codebook / codebook.std()
        self.register_buffer("features", torch.cat([values, values**2], 1))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2 * codebook.shape[1])
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.often = nn.Parameter(torch.zeros(len(self.shapes), spec.vocab_size))

    def forward(self, seen: Tensor, labels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`hidden` is true where a token (row) may not look at another (column)."""
        parts = seen.split(self.lengths[: int(self.scale[seen.shape[1] - 1]) + 1], 1)
        maps = [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, self.shapes, strict=False)]
        x = torch.cat([self.look(grid).flatten(2).transpose(1, 2) for grid in maps], 1)
        x = x + self.position[: x.shape[1]] + self.label(labels)[:, None]
        for block in self.blocks:
            x = block(x, src_mask=hidden)
        logits: Tensor = self.head(self.norm(x)) @ self.features.T + self.often[self.scale[: x.shape[1]]]
        return logits


class NextScaleGenerator(nn.Module):
    """All tokens of a scale at once, from the sum of the coarser scales."""

    hidden: Tensor

    def __init__(self, tok: coda_runtime.Tokenizer, classes: int, width: int, layers: int) -> None:
        super().__init__()
        codebook = torch.from_numpy(tok.codebook.copy())
        self.classes, self.spread = classes, float(codebook.std())
        self.sums = NextScale(codebook, tok.spec)
        self.net = Transformer(tok.spec, codebook, codebook.shape[1], classes, width, layers)
        scale = self.net.scale
        self.register_buffer("hidden", scale[:, None] < scale[None, :])

    def logits(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Of the first scale and all those that `inputs` [B,n,C], as `NextScale` gives them, are of."""
        first = inputs.new_zeros(len(labels), self.net.lengths[0], inputs.shape[2])
        seen = torch.cat([first, inputs / self.spread], 1)
        count = seen.shape[1]
        found: Tensor = self.net(seen, labels, self.hidden[:count, :count])
        return found

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Nats a token, of ids int64 [B,L] with classes int64 [B]."""
        return F.cross_entropy(self.logits(self.sums(ids), labels).flatten(0, 1), ids.flatten())

    @torch.no_grad()
    def generate(
        self, tok: coda_runtime.Tokenizer, labels: Tensor, guidance: float, temperature: float
    ) -> coda_runtime.Accumulator:
        """Draw scale by scale, each seen by the next as the runtime adds them up."""
        acc = tok.accumulator(len(labels))
        inputs = torch.zeros(len(labels), 0, tok.spec.latent_channels)
        for length in self.net.lengths:
            logits = guided(lambda told: self.logits(inputs, told), labels, self.classes, guidance)  # noqa: B023
            following = acc.add(draw(logits[:, -length:], temperature))
            if following is not None:
                inputs = torch.cat([inputs, torch.from_numpy(following)], 1)
        return acc


class MaskedGenerator(nn.Module):
    """MaskGIT: tokens predicted from others, scale after scale, each in a few rounds: the surest of them stay."""

    values: Tensor

    def __init__(self, tok: coda_runtime.Tokenizer, classes: int, width: int, layers: int, rounds: int = 3) -> None:
        super().__init__()
        codebook = torch.from_numpy(tok.codebook.copy())
        self.classes, self.rounds, self.ends = classes, rounds, tok.spec.prefix_lengths
        self.register_buffer("values", codebook / codebook.std())
        self.net = Transformer(tok.spec, codebook, codebook.shape[1] + 1, classes, width, layers)

    def logits(self, ids: Tensor, masked: Tensor, labels: Tensor) -> Tensor:
        """Of ids int64 [B,n], of which those that are `masked` are not looked at."""
        flag = masked[..., None].float()
        found: Tensor = self.net(torch.cat([self.values[ids] * (1 - flag), flag], 2), labels)
        return found

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Nats a masked token: some of one scale, drawn by chance, all coarser ones being known."""
        number = int(torch.multinomial(torch.tensor(self.net.lengths).float().sqrt(), 1))
        ids = ids[:, : self.ends[number]]
        share = torch.cos(torch.rand(len(ids), 1) * math.pi / 2)
        masked = (self.net.scale[: ids.shape[1]] == number) & (torch.rand(ids.shape) < share)
        masked[:, -1] = True  # never none
        return F.cross_entropy(self.logits(ids, masked, labels)[masked], ids[masked])

    @torch.no_grad()
    def generate(
        self, tok: coda_runtime.Tokenizer, labels: Tensor, guidance: float, temperature: float
    ) -> coda_runtime.Accumulator:
        """Draw a scale in rounds, then the next."""
        acc = tok.accumulator(len(labels))
        ids = torch.zeros(len(labels), 0, dtype=torch.int64)
        for length in self.net.lengths:
            ids = torch.cat([ids, ids.new_zeros(len(ids), length)], 1)
            masked = torch.zeros_like(ids, dtype=torch.bool)
            masked[:, -length:] = True
            rounds = min(self.rounds, length)
            for turn in range(1, rounds + 1):
                logits = guided(lambda told: self.logits(ids, masked, told), labels, self.classes, guidance)  # noqa: B023
                drawn = torch.where(masked[:, -length:], draw(logits[:, -length:], temperature), ids[:, -length:])
                sure = logits[:, -length:].log_softmax(-1).gather(2, drawn[..., None])[..., 0]
                sure = torch.where(masked[:, -length:], sure, torch.inf)
                ids[:, -length:] = drawn
                again = int(length * math.cos(math.pi / 2 * turn / rounds))
                masked[:, -length:] = sure.argsort(1).argsort(1) < again
            acc.add(ids[:, -length:])
        return acc


def guided(logits: Callable[[Tensor], Tensor], labels: Tensor, classes: int, guidance: float) -> Tensor:
    """Classifier-free guidance: away from what it says without a class, `guidance` times as far as with one."""
    none = torch.full_like(labels, classes)
    without = logits(none)
    return without + guidance * (logits(labels) - without)


def draw(logits: Tensor, temperature: float) -> Tensor:
    """Ids int64 [B,n] of logits [B,n,V]."""
    odds = (logits / temperature).softmax(-1)
    return torch.multinomial(odds.flatten(0, 1), 1).view(logits.shape[:2])


def dropped(labels: Tensor, classes: int, share: float = 0.1) -> Tensor:
    """Classes of which a share by chance is taken away, so that the model learns without one too."""
    return torch.where(torch.rand(len(labels)) < share, classes, labels)
