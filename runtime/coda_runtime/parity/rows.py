"""Parity as text: one row for each artifact and place it ran on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..codes.metrics import percent
from ..format.manifest import Artifact, Manifest
from ..format.parity import Measured, NotMeasured, ParityRecord, parity_record
from ..format.parts import GRAPHS

PARITY_COLUMNS = ("file", "ran on", "token agreement", "PSNR", "worst image", "lost", "batch sizes")


def parity_rows(artifact: Artifact, parity: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield rows under PARITY_COLUMNS of an artifact's `parity`, as JSON has it; the worst of the batch sizes.

    Token agreement is step agreement. A manifest may be made by hand: what is no object there is shown as it is.
    """
    for where, data in parity.items():
        record = parity_record(data)
        if record is None:
            yield artifact.file, where, json.dumps(data)
            continue
        sizes = ",".join(record.batches)
        if isinstance(record, NotMeasured):
            yield artifact.file, where, f"not run: {record.reason}", "", "", "", sizes
        else:
            psnr = psnr_text(record), _decibel(record.psnr_min)
            yield artifact.file, where, agreement_text(record), *psnr, loss_text(record), sizes


def unmeasured_files(manifest: Manifest, parity: Mapping[str, Mapping[str, ParityRecord]]) -> dict[str, str]:
    """Return {file: why} of the graphs that have no numbers, or not from everywhere, in `parity`, {file: its own}."""
    out = {}
    for artifact in manifest.artifacts:
        if artifact.part not in GRAPHS:
            continue
        measured = parity.get(artifact.file)
        if not measured:
            out[artifact.file] = "not asked for"
            continue
        reasons = [f"{where}: {record.reason}" for where, record in measured.items() if isinstance(record, NotMeasured)]
        if reasons:
            out[artifact.file] = ", ".join(reasons)
    return out


def agreement_text(record: Measured) -> str:
    """Return the step agreement; empty where it is not what was measured."""
    return "" if record.step_agreement is None else percent(record.step_agreement)


def psnr_text(record: Measured) -> str:
    """Return the mean PSNR; empty where it is not what was measured."""
    return (_decibel(record.psnr) or "identical") if record.has_psnr else ""


def loss_text(record: Measured) -> str:
    """Return what a reconstruction loses of its PSNR, and the worst image of it; empty where it was not measured."""
    mean, worst = record.psnr_drop, record.psnr_drop_max
    if mean is None or worst is None:
        return ""
    chance = f" ± {record.psnr_drop_error:.2f}" if record.psnr_drop_error else ""
    return f"{mean:.2f}{chance} dB (worst {worst:.2f})"


def _decibel(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"
