"""Parity as text: one row for each artifact and place it ran on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..codes.metrics import percent
from ..format.manifest import Artifact, Manifest
from ..format.parity import Measured, NotMeasured, ParityRecord, parity_record
from ..format.parts import GRAPHS

PARITY_COLUMNS = ("file", "ran on", "step agreement", "free-running", "PSNR", "worst image", "lost", "batch sizes")
AGREEMENT_LEGEND = (
    "step agreement: equal tokens when each scale starts from the artifact's own earlier tokens, so that a near tie "
    "counts once; free-running: equal tokens in the end, where a near tie changes the scales after it too"
)
"""What tells the two shares of equal tokens apart, wherever they are printed."""


NOT_RUN = "not run"


def parity_rows(artifact: Artifact, parity: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield rows under PARITY_COLUMNS of an artifact's `parity`, as JSON has it; the worst of the batch sizes.

    A manifest may be made by hand: what is no object there is shown as it is. `reasons` has why something was not run.
    """
    for where, data in parity.items():
        record = parity_record(data)
        if record is None:
            yield artifact.file, where, json.dumps(data)
            continue
        sizes = ",".join(record.batches)
        if isinstance(record, NotMeasured):
            yield artifact.file, where, NOT_RUN, "", "", "", "", sizes
        else:
            psnr = psnr_text(record), _decibel(record.psnr_min)
            tokens = agreement_text(record), free_running_text(record)
            yield artifact.file, where, *tokens, *psnr, loss_text(record), sizes


def reasons(parity: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return each reason why something was not run once, with the files and places, of {file: its parity}."""
    places: dict[str, list[str]] = {}
    for file, records in parity.items():
        for where, data in records.items():
            record = parity_record(data)
            if isinstance(record, NotMeasured):
                places.setdefault(record.reason, []).append(f"{file} on {where}")
    return [f"{NOT_RUN}: {', '.join(names)}: {reason}" for reason, names in places.items()]


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


def free_running_text(record: Measured) -> str:
    """Return the free-running agreement; empty where it is not what was measured."""
    return "" if record.agreement is None else percent(record.agreement)


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
