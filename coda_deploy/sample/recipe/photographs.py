r"""Gather the photographs the sample tokenizer learns from into two arrays on disk.

Every photograph comes from a Debian package or from scikit-image's wheel, named in SOURCES and GCOMPRIS with its
licence. Set up the packages once, without installing them::

    mkdir debs && cd debs && apt-get download gcompris-qt-data lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 \
        mate-backgrounds plasma-workspace-wallpapers stellarium-data tuxpaint-stamps-default
    for f in *.deb; do dpkg -x $f ../packages; done

then ``python -m coda_deploy.sample.recipe.photographs packages --out photos``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from coda_deploy.sample.recipe.qt_resources import members

Pixels = NDArray[np.uint8]


class Source(NamedTuple):
    """Where photographs come from: a folder under the packages' root, and the names in it that are photographs."""

    folder: str
    train: str
    held_out: str
    licence: str


SOURCES = (
    Source(
        "usr/share/backgrounds",
        "Dragonfly_by_Bolly Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi "
        "free_by_Peter_Nerlich greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi",
        "Bridge_by_Sander_Klootwijk Picture_0B_by_freespace friends_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi "
        "Kleiber_by_Lukas_Baubkus",
        "CC0-1.0, CC-BY-4.0, CC-BY-SA-4.0 or CC-BY-SA-3.0, by the author in the file name",
    ),
    Source(
        "usr/share/backgrounds/mate/nature",
        "Aqua Blinds Dune FreshFlower GreenMeadow RainDrops Storm TwoWings Wood YellowFlower",
        "Garden LadyBird",
        "GPL-2+ (authors in the package's copyright file)",
    ),
    Source(
        "usr/share/wallpapers",
        "BytheWater ColdRipple ColorfulCups EveningGlow Grey Kite OneStandsOut Path summer_1am DarkestHour",
        "FallenLeaf",
        "GPL-2+ (KDE Visual Design Group)",
    ),
    Source(
        "usr/share/stellarium/landscapes/hurricane",
        "hurricane1 hurricane5 hurricane6 hurricane8 hurricaneb",
        "",
        "GPL-2+ (Johan Meuris and Robert Spearman)",
    ),
    Source(
        "usr/share/stellarium/landscapes/guereins",
        "guereins2 guereins6 guereins8 guereinsb",
        "",
        "GPL-2+ (Fabien Chéreau)",
    ),
    Source("usr/share/stellarium/landscapes/garching", "garching-gl1 garching-ground3", "", "GPL-2+ (Fabien Chéreau)"),
)
# Photographs of animals, buildings, musicians and things, and some paintings, all of them learned from; each has its
# author and licence (public domain, CC0, CC-BY, CC-BY-SA, GFDL or GPL) in the package's copyright file.
GCOMPRIS = (
    "usr/share/gcompris-qt/rcc",
    "categorization clickgame details erase explore_farm_animals explore_monuments explore_world_animals "
    "explore_world_music",
)
# scikit-image ships these: NASA (public domain) or CC0.
SKIMAGE_HELD_OUT = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
STAMPS = "usr/share/tuxpaint/stamps"
DRAWINGS = ("cartoon", "symbols", "flags", "roadsigns", "military")
SHORT_SIDES = (128, 160, 200, 256, 360, 512, 720)
PLAIN = 2.5  # mean difference of neighbouring pixels, of 255
SMALLEST = 200  # of GCompris's pictures: what is smaller is an icon


def _find(folder: Path, name: str) -> Path:
    files = [p for p in folder.glob(f"{name}*/contents/images/*") if p.is_file()]
    files += [p for p in folder.glob(f"{name}.*") if p.is_file()]
    if not files:
        raise FileNotFoundError(f"no photograph {name} under {folder}: unpack the packages this module names")
    return max(files, key=lambda p: p.stat().st_size)


def _gcompris(packages: Path) -> Iterator[Image.Image]:
    """Yield each photograph once: some are in two activities."""
    folder, activities = GCOMPRIS
    seen = set()
    for activity in activities.split():
        for name, content in sorted(members(packages / folder / f"{activity}.rcc")):
            if not name.endswith((".webp", ".jpg")):
                continue
            with Image.open(io.BytesIO(content)) as opened:
                opaque = opened.mode == "RGB"
                image = opened.convert("RGB")
            small = image.convert("L").resize((9, 8), Image.Resampling.BOX)
            gradient = np.diff(np.asarray(small).astype(int), axis=1) > 0
            if opaque and min(image.size) >= SMALLEST and (key := gradient.tobytes()) not in seen:
                seen.add(key)
                yield image


def _resize(image: Image.Image, short: int) -> Image.Image:
    scale = short / min(image.size)
    size = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _squares(image: Image.Image, side: int = 128, per_level: int = 60) -> Iterator[Pixels]:
    """Cut crops of side x side out of a pyramid of the photograph: whole views and details."""
    rng = np.random.default_rng(0)
    for short in SHORT_SIDES:
        if short > min(image.size):
            break
        level = np.asarray(_resize(image, short))
        h, w = level.shape[:2]
        free = [(y, x) for y in range(0, h - side + 1, 24) for x in range(0, w - side + 1, 24)]
        for i in rng.permutation(len(free))[:per_level]:
            y, x = free[i]
            yield level[y : y + side, x : x + side]


def _worth_learning(squares: Iterable[Pixels]) -> list[Pixels]:
    """Keep every square with something on it, and each fourth of one tone: skies are many and teach little."""
    kept, plain = [], 0
    for square in squares:
        steps = np.abs(np.diff(square.astype(np.int16), axis=1)).mean()
        plain += steps < PLAIN
        if steps >= PLAIN or plain % 4 == 0:
            kept.append(square)
    return kept


def _stamp_on(stamp: Image.Image, ground: Image.Image) -> Image.Image:
    """Paste a cut-out object over a blurred photograph, so that its edges are photographic too."""
    stamp = _resize(stamp, min(512, min(stamp.size)))
    base = ground.resize(stamp.size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))
    base.paste(stamp, (0, 0), stamp)
    return base


def gather(packages: Path) -> dict[str, list[Pixels]]:
    """Return all squares, uint8 [128, 128, 3], under the keys ``train`` and ``held_out``. No photograph is in both."""
    import skimage

    squares: dict[str, list[Pixels]] = {"train": [], "held_out": []}
    grounds = []
    for source in SOURCES:
        for split, names in (("train", source.train), ("held_out", source.held_out)):
            for name in names.split():
                image = Image.open(_find(packages / source.folder, name)).convert("RGB")
                if split == "train":
                    grounds.append(_resize(image, 256))
                    squares[split] += _worth_learning(_squares(image, per_level=30))
                else:
                    squares[split] += _squares(image, per_level=3)
    for image in _gcompris(packages):
        squares["train"] += _worth_learning(_squares(image, per_level=12))
    for name in SKIMAGE_HELD_OUT:
        image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        squares["held_out"] += _squares(image, per_level=3)
    stamps = sorted(p for p in (packages / STAMPS).rglob("*.png") if not any(d in str(p) for d in DRAWINGS))
    for i, path in enumerate(stamps):
        stamp = Image.open(path).convert("RGBA")
        if min(stamp.size) < 128:
            continue
        squares["train"] += _worth_learning(_squares(_stamp_on(stamp, grounds[i % len(grounds)]), per_level=8))
    return squares


def main() -> None:
    """Write ``train.npy`` and ``held_out.npy``, each uint8 [N, 128, 128, 3]."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("packages", type=Path, help="root the Debian packages were unpacked into")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, squares in gather(args.packages).items():
        np.save(args.out / f"{split}.npy", np.stack(squares))
        print(f"{split}: {len(squares)} squares")


if __name__ == "__main__":
    main()
