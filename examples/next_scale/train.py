"""A tiny generator of tokens with classes, trained on a folder of tokens; then images that it makes up.

    python examples/next_scale/shapes.py shapes
    coda tokenize BUNDLE shapes --label folder --out tokens
    python examples/next_scale/train.py BUNDLE tokens --out made

It reports the loss on every tenth image, which it was not trained on, in nats a token, beside that of a model which
knows only how often each code occurs, in all and at each scale. Images go to made/CLASS/; made.png has them with the
nearest training image to the right of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from models import MaskedGenerator, NextScaleGenerator, dropped
from PIL import Image
from torch import Tensor, nn

import coda_runtime
from coda_deploy.tokens import TokenDataset

KINDS = {"next-scale": NextScaleGenerator, "masked": MaskedGenerator}
Model = NextScaleGenerator | MaskedGenerator


def read(folder: str) -> tuple[Tensor, Tensor, list[str], coda_runtime.Spec]:
    """Return ids int64 [N,L], the number of each one's class, int64 [N], and the names of the classes."""
    data = TokenDataset(folder)
    items = [data[number] for number in range(len(data))]
    names = [str(item.get("label", "")) for item in items]
    classes = sorted(set(names))
    return (
        torch.stack([item["ids"] for item in items]),
        torch.tensor([classes.index(name) for name in names]),
        classes,
        data.spec,
    )


def log_frequencies(ids: Tensor, lengths: list[int], codes: int) -> tuple[Tensor, Tensor]:
    """Log of how often each code occurs, in all [V] and at each scale [S,V], none of them never."""

    def logs(part: Tensor, prior: Tensor) -> Tensor:
        counts = torch.bincount(part.flatten(), minlength=codes) + prior
        return (counts / counts.sum()).log()

    everywhere = logs(ids, torch.ones(codes))
    return everywhere, torch.stack([logs(part, codes * everywhere.exp()) for part in ids.split(lengths, 1)])


def train(model: Model, ids: Tensor, labels: Tensor, steps: int, batch: int, rate: float) -> None:
    """AdamW with one cycle of the learning rate.

    Two steps of three are of the coarser scales alone, all but the last two: they make the image, at a third of the
    cost.
    """
    coarse = sum(model.net.lengths[:-2])
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = torch.randint(len(ids), (batch,))
        part = ids[chosen] if step % 3 == 0 or not coarse else ids[chosen, :coarse]
        loss = model.loss(part, dropped(labels[chosen], model.classes))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            sys.stderr.write(f"step {step}: {loss.item():.3f} nats a token\n")


@torch.no_grad()
def held_out_loss(model: Model, ids: Tensor, labels: Tensor) -> float:
    """Nats a token, over images that were not trained on."""
    parts = [model.loss(a, b) * len(a) for a, b in zip(ids.split(8), labels.split(8), strict=True)]
    return float(sum(parts) / len(ids))


def grid(made: np.ndarray, near: np.ndarray, across: int) -> Image.Image:
    """Each image with its neighbour to the right, `across` pairs in a row."""
    pairs = np.pad(np.concatenate([made, near], 2), ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
    rows = [np.concatenate(list(pairs[start : start + across]), 1) for start in range(0, len(pairs), across)]
    return Image.fromarray(np.concatenate(rows, 0))


def nearest(tok: coda_runtime.Tokenizer, made: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Number of the row of `known` whose latent differs least from that of each row of `made`, both ids [N,L]."""
    latents = np.concatenate([tok.embed(part) for part in np.array_split(known, -(-len(known) // 64))])
    return np.array([((latents - latent) ** 2).mean((1, 2, 3)).argmin() for latent in tok.embed(made)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("tokens")
    parser.add_argument("--out", type=Path, default=Path("made"))
    parser.add_argument("--kind", choices=KINDS, default="next-scale")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--each", type=int, default=3, help="images of each class")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args()
    torch.manual_seed(0)
    ids, labels, classes, spec = read(args.tokens)
    if len(ids) < 10:
        parser.error(f"{args.tokens} has {len(ids)} images; expected 10 or more")
    with coda_runtime.load(args.bundle) as tok:
        if tok.spec != spec:
            parser.error(f"{args.tokens} was not made with {args.bundle}")
        test = torch.arange(len(ids)) % 10 == 9
        known, known_labels = ids[~test], labels[~test]
        model = KINDS[args.kind](tok, len(classes), args.width, args.layers)
        everywhere, by_scale = log_frequencies(known, model.net.lengths, spec.vocab_size)
        model.net.often.data.copy_(by_scale)
        train(model, known, known_labels, args.steps, args.batch, args.rate)
        model.eval()
        asked = torch.arange(len(classes)).repeat_interleave(args.each)
        acc = model.generate(tok, asked, args.guidance, args.temperature)
        images, made = acc.image(), acc.ids
        near = tok.decode(known.numpy()[nearest(tok, made, known.numpy())])
    scales = model.net.scale.expand(int(test.sum()), -1)
    told = {
        "loss": held_out_loss(model, ids[test], labels[test]),
        "frequencies": -float(everywhere[ids[test]].mean()),
        "frequencies_by_scale": -float(by_scale[scales, ids[test]].mean()),
        "codes_of_training": len(known.unique()),
        "codes_of_samples": len(np.unique(made)),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    for number, image in enumerate(images):
        folder = args.out / classes[int(asked[number])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number % args.each:03d}.png")
    grid(images, near, args.each).save(args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
