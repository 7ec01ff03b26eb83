"""The least parity an artifact may have: an export or a build that falls under it leaves nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..codes.metrics import percent
from ..errors import InputError, ManifestError, ParityError
from ..format.manifest import Manifest


@dataclass(frozen=True)
class Floor:
    """`min_agreement`: share of tokens, 0 to 1, by step agreement; `min_psnr`: dB between the decoded images.

    The PSNR is held to it as the mean over the images, and that of the worst image too.
    """

    min_agreement: float
    min_psnr: float

    def __post_init__(self) -> None:
        """Refuse what every comparison would let through."""
        if not (0 <= self.min_agreement <= 1 and math.isfinite(self.min_psnr)):
            raise InputError(
                f"a floor must be an agreement from 0 to 1 and a finite PSNR, found {self.min_agreement} and "
                f"{self.min_psnr} dB"
            )


# fp32 by contract. The others stand below what the sample tokenizer gave on the shipped photographs:
# benchmarks/bench_precision.py measures it, docs/precision.md tells it.
DEFAULT_FLOORS: Mapping[str, Floor] = {
    "fp32": Floor(0.999, 55.0),
    "fp16": Floor(0.99, 55.0),
    "bf16": Floor(0.93, 45.0),
}


_HIGHER_PSNR = "take a higher precision, or accept it with --min-psnr when exporting"

# onnxruntime's own CPU provider has no bf16 convolution.
MAY_STAY_UNMEASURED = frozenset({"bf16"})


def floor_of(floors: Mapping[str, Floor], precision: str) -> Floor:
    """The floor of a precision. Raises ParityError where there is none."""
    if precision not in floors:
        raise ParityError(
            f"there is no floor for the precision {precision!r} to hold it to, only for {', '.join(floors)}; "
            "export the bundle again with coda export"
        )
    return floors[precision]


def check_floor(part: str, precision: str, parity: Mapping[str, Any], floor: Floor, *, must_run: bool = False) -> None:
    """Raise ParityError naming the part, what was measured and what was asked. `parity` is of one backend and device.

    A graph that did not run fails too, but for a precision that the machine which exports may not be able to run,
    unless `must_run`.
    """
    if "reason" in parity and (must_run or precision not in MAY_STAY_UNMEASURED):
        raise ParityError(f"the {precision} {part} could not be run, so its parity is unknown: {parity['reason']}")
    _check_numbers(f"the {precision} {part}", parity, floor)
    # Where one size could not run, the others are judged nevertheless.
    for size, numbers in parity.get("batches", {}).items():
        _check_numbers(f"the {precision} {part} at a batch of {size}", numbers, floor)


def _check_numbers(what: str, numbers: Mapping[str, Any], floor: Floor) -> None:
    agreement, psnr = numbers.get("step_agreement"), numbers.get("psnr")
    worst = numbers.get("psnr_min")  # not in bundles of before it was recorded
    if agreement is not None and agreement < floor.min_agreement:
        raise ParityError(
            f"{what} agrees with the tokenizer on {percent(agreement)} of the tokens, "
            f"the floor is {percent(floor.min_agreement)} "
            f"({100 * (floor.min_agreement - agreement):.3f} % short): take a higher precision, "
            "or accept it with --min-agreement when exporting"
        )
    if psnr is not None and psnr < floor.min_psnr:
        raise ParityError(
            f"{what} is {psnr:.2f} dB from the tokenizer's images, the floor is {floor.min_psnr:.2f} dB"
            f" ({floor.min_psnr - psnr:.2f} dB short): {_HIGHER_PSNR}"
        )
    if worst is not None and worst < floor.min_psnr:
        raise ParityError(
            f"the worst image of {what} is {worst:.2f} dB from the tokenizer's, the floor is {floor.min_psnr:.2f} dB"
            f" ({floor.min_psnr - worst:.2f} dB short): {_HIGHER_PSNR}"
        )


def unmeasured(parity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(where, reason) of each backend and device in an artifact's `parity` that it could not be measured on."""
    for where, numbers in parity.items():
        if isinstance(numbers, Mapping) and "reason" in numbers:
            yield where, str(numbers["reason"])


def recorded_floors(manifest: Manifest) -> dict[str, Floor]:
    """The floors a bundle was exported with, by precision; none for one made by hand. Raises ManifestError."""
    recorded = manifest.provenance.get("floors", {})
    try:
        return {name: Floor(float(f["min_agreement"]), float(f["min_psnr"])) for name, f in recorded.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"provenance.floors is no object of floors ({error}): export the bundle again") from error
