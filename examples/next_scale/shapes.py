"""Draw simple shapes, a folder for each class: something to train on where there is no dataset.

python examples/next_scale/shapes.py shapes --count 150
"""

from __future__ import annotations

import argparse
import colorsys
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ("cross", "disc", "ring", "square", "stripes", "triangle")
_FINER = 4  # drawn that much larger and reduced, so that edges are smooth

Color = tuple[int, int, int]


def draw(name: str, side: int, chance: random.Random) -> Image.Image:
    """Return an image of a class: its size, place, turn and two colours by chance."""
    full = side * _FINER
    hue = chance.random()
    image = Image.new("RGB", (full, full), _color(hue + chance.uniform(0.3, 0.7), 0.45, chance.uniform(0.15, 0.45)))
    pen, color = ImageDraw.Draw(image), _color(hue, 0.85, chance.uniform(0.75, 1.0))
    radius = full * chance.uniform(0.22, 0.36)
    x, y = (chance.uniform(radius, full - radius) for _ in range(2))
    turn = chance.uniform(0, math.tau)
    box = (x - radius, y - radius, x + radius, y + radius)
    if name == "disc":
        pen.ellipse(box, fill=color)
    elif name == "ring":
        pen.ellipse(box, outline=color, width=round(0.35 * radius))
    elif name == "square":
        pen.polygon(_corners(x, y, radius, 4, turn), fill=color)
    elif name == "triangle":
        pen.polygon(_corners(x, y, radius, 3, turn), fill=color)
    elif name == "cross":
        for angle in (turn, turn + math.pi / 2):
            across, along = radius * math.cos(angle), radius * math.sin(angle)
            pen.line((x - across, y - along, x + across, y + along), fill=color, width=round(0.45 * radius))
    else:
        for left in range(0, full, round(0.8 * radius)):
            pen.rectangle((left, 0, left + 0.4 * radius, full), fill=color)
    return image.resize((side, side), Image.Resampling.BOX)


def _corners(x: float, y: float, radius: float, count: int, turn: float) -> list[tuple[float, float]]:
    angles = [turn + math.tau * number / count for number in range(count)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _color(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=150, help="images of each class")
    parser.add_argument("--side", type=int, default=128)
    args = parser.parse_args()
    chance = random.Random(0)
    for name in CLASSES:
        (args.out / name).mkdir(parents=True, exist_ok=True)
        for number in range(args.count):
            draw(name, args.side, chance).save(args.out / name / f"{number:04d}.png")


if __name__ == "__main__":
    main()
