"""Parity as text: one row for each artifact and place it ran on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..codes.metrics import percent
from ..format.manifest import PARTS, Artifact, Manifest
from .thresholds import unmeasured

PARITY_COLUMNS = ("file", "ran on", "token agreement", "PSNR", "worst image", "batch sizes")


def parity_rows(artifact: Artifact, parity: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows under PARITY_COLUMNS of an artifact's `parity`, {backend:device: numbers}; the worst of the batch sizes.

    Token agreement is step agreement. A manifest may be made by hand: what is no number there is shown as it is.
    """
    for where, numbers in parity.items():
        if not isinstance(numbers, Mapping):
            yield artifact.file, where, json.dumps(numbers)
            continue
        batches = numbers.get("batches")
        sizes = ",".join(map(str, batches)) if isinstance(batches, Mapping) else ""
        if "reason" in numbers:
            cells: tuple[str, ...] = (f"not run: {numbers['reason']}", "", "")
        else:
            cells = agreement_text(numbers), psnr_text(numbers), _worst(numbers)
        yield artifact.file, where, *cells, sizes


def unmeasured_files(manifest: Manifest, parity: Mapping[str, Any]) -> dict[str, str]:
    """{file: why} of the graphs that have no numbers, or not from everywhere, in `parity`, {file: its parity}."""
    out = {}
    for artifact in manifest.artifacts:
        if artifact.part not in PARTS:
            continue
        measured = parity.get(artifact.file)
        if not measured:
            out[artifact.file] = "not asked for"
            continue
        reasons = [f"{where}: {reason}" for where, reason in unmeasured(measured)]
        if reasons:
            out[artifact.file] = ", ".join(reasons)
    return out


def agreement_text(numbers: Mapping[str, Any]) -> str:
    """Step agreement; empty where it is not what was measured."""
    value = numbers.get("step_agreement")
    return percent(value) if isinstance(value, int | float) else ""


def psnr_text(numbers: Mapping[str, Any]) -> str:
    """The mean PSNR; empty where it is not what was measured."""
    if "psnr" not in numbers:
        return ""
    value = numbers["psnr"]
    return f"{value:.1f} dB" if isinstance(value, int | float) else "identical"


def _worst(numbers: Mapping[str, Any]) -> str:
    """Empty where all images are identical, and in a bundle of before it was recorded."""
    value = numbers.get("psnr_min")
    return f"{value:.1f} dB" if isinstance(value, int | float) else ""
