"""What a processor's answers are worth beside this machine's: numbers, what is broken, and the table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coda_runtime.codes.metrics import percent
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.parity import DEFAULT_THRESHOLDS, Threshold, mean_psnr, token_parity

Array = npt.NDArray[Any]
REPRODUCIBLE = "reproducible"
"""How the names of the arrays begin that `load(reproducible=True)` makes."""
LIMITS: Threshold = DEFAULT_THRESHOLDS["fp32"]
"""What every fp32 export is held to: step agreement forgives a near tie that falls the other way, and little more."""


def compare_ids(ids: Array, expected: Array, latent: Array, quantizer: NumpyQuantizer) -> dict[str, Any]:
    """Compare ids int32 [B,L] with the ``expected`` ones: how many are equal, and which share is right step by step."""
    found = token_parity(ids, expected, quantizer.step(latent, ids), quantizer.spec.scales)
    return {"equal": int((ids == expected).sum()), "of": ids.size, "step_agreement": found["step_agreement"]}


def compare_images(found: Mapping[str, Array], native: Mapping[str, Array]) -> dict[str, Any]:
    """Compare the same ids decoded, in dB, with this machine's (None: identical); photographs there and back, in dB."""
    apart = [mean_psnr(a[None], b[None]) for a, b in zip(found["decoded"], native["decoded"], strict=True)]
    return {
        "pixels_equal": bool(np.array_equal(found["pixels"], native["pixels"])),
        "decode_psnr": min((value for value in apart if value is not None), default=None),
        "psnr_to_input": mean_psnr(found["rebuilt"], native["pixels"]),
    }


def compare_chosen(found: Mapping[str, Array], native: Mapping[str, Array]) -> dict[str, Any]:
    """Compare the ids of the chosen images, which are near ties, and every array that must be the same bit by bit.

    "reproducible" is None where the processor was refused.
    """
    names = [name for name in found if name.startswith(REPRODUCIBLE)]
    return {
        "chosen": [int((a != b).sum()) for a, b in zip(found["chosen"], native["chosen"], strict=True)],
        "reproducible": all(np.array_equal(found[name], native[name]) for name in names) if names else None,
    }


def broken(row: Mapping[str, Any], limits: Threshold = LIMITS) -> list[str]:
    """Return a line for everything in ``row`` that is worse than a near tie or a rounding."""
    out = [f"{line}: the switch did not take effect" for line in row["not_in_effect"]]
    for name, ids in row["ids"].items():
        if ids["step_agreement"] < limits.min_agreement:
            out.append(
                f"{name}: step agreement {percent(ids['step_agreement'])}, expected "
                f"{percent(limits.min_agreement, 1)} or more"
            )
    if not row["pixels_equal"]:
        out.append("the photographs are read as other pixels than on this machine")
    if row.get("reproducible") is False:
        out.append("load(reproducible=True) computes something else than on this machine")
    if row["decode_psnr"] is not None and row["decode_psnr"] < limits.min_psnr:
        out.append(
            f"the same ids decode to images {row['decode_psnr']:.1f} dB from this machine's, expected "
            f"{limits.min_psnr:.0f} dB or more"
        )
    if row.get("tests", {}).get("exit", 0):
        out.append(f"the numeric tests failed: {row['tests']['summary']}")
    return out


def closing_line(output: str) -> str:
    """Return the counts that pytest ends with, without its frame: "529 passed in 60.00s"."""
    lines = [line.strip("= ") for line in output.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    return lines[-1] if lines else "pytest did not say how it ended"


COLUMNS = (
    "processor",
    "instruction set",
    "golden MAR",
    "golden FLUX",
    "sample",
    "step agreement",
    "decode",
    "to input",
    "CPU seconds",
    "numeric tests",
)


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table, one line per row."""
    cells = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(*row) for row in rows.items())]
    return [f"| {' | '.join(line)} |" for line in cells]


def chosen_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table of the chosen images, and of what `reproducible` makes of them."""
    words = {True: "identical", False: "differs", None: "not there"}
    cells = [("processor", "other ids in the chosen images", "reproducible"), ("---",) * 3]
    cells += [(name, ", ".join(map(str, row["chosen"])), words[row["reproducible"]]) for name, row in rows.items()]
    return [f"| {' | '.join(line)} |" for line in cells]


def _cells(name: str, row: Mapping[str, Any]) -> Sequence[str]:
    ids = row["ids"]
    equal = [f"{found['equal']} of {found['of']}" for found in ids.values()]
    decode = "identical" if row["decode_psnr"] is None else f"{row['decode_psnr']:.1f} dB"
    tests = row["tests"]["summary"].partition(" in ")[0] if "tests" in row else ""
    return (
        name,
        row["seen"]["ATen"] if "ATen" in row["seen"] else row["seen"]["processor"],
        *equal,
        percent(min(found["step_agreement"] for found in ids.values()), 2),
        decode,
        f"{row['psnr_to_input']:.2f} dB",
        f"{sum(row['seconds'].values()):.1f}",
        tests,
    )
