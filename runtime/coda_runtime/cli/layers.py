"""What `coda verify --layers` shows: a part's layers in the order of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class LayerFigures(TypedDict):
    """A layer; null is what is not finite: of `psnr` equal outputs, of all else outputs that are not finite."""

    layer: str
    error: float | None
    own: float | None
    bound: float
    psnr: float | None
    cosine: float | None
    growth: float | None
    within: bool


class PartLayers(TypedDict):
    """A part's comparison, as coda-deploy returns it: what ran where, beside what, and the first layer that is off."""

    part: str
    precision: str
    backend: str
    beside: str
    first: str | None
    problem: str | None
    layers: list[LayerFigures]


LAYER_COLUMNS = ("layer", "error", "growth", "alone", "bound", "PSNR", "cosine", "")


def layer_rows(layers: Sequence[LayerFigures]) -> list[list[str]]:
    """Return a row for each layer; the first that leaves its bound is marked, and those after it otherwise."""
    rows, found = [], False
    for figures in layers:
        mark = ""
        if not figures["within"]:
            mark, found = ("off" if found else "OFF, the first"), True
        psnr, growth = figures["psnr"], figures["growth"]
        rows.append(
            [
                figures["layer"],
                _share(figures["error"]),
                "" if growth is None else f"{growth:.1f} x",
                _share(figures["own"]),
                _share(figures["bound"]),
                "equal" if figures["error"] == 0 else "" if psnr is None else f"{psnr:.1f} dB",
                "" if figures["cosine"] is None else f"{figures['cosine']:.6f}",
                mark,
            ]
        )
    return rows


def _share(value: float | None) -> str:
    return "not finite" if value is None else f"{100 * value:.2g} %"
