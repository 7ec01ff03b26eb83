"""The least parity an artifact may have: an export or a build that falls under it leaves nothing."""

from __future__ import annotations

from collections.abc import Mapping

from ..codes.metrics import percent
from ..errors import ManifestError, ParityError
from ..format.manifest import Manifest
from ..format.parity import Measured, NotMeasured, ParityRecord
from ..format.parts import DECODER, ENCODE, ENCODER
from ..format.precision import FP32, Threshold, precision_of

_LOSS_WITH = {DECODER.name: ENCODER.name, ENCODE.name: DECODER.name}
"""The parts that are held to what an image loses there and back, each with the part that it was measured with."""


def threshold_of(thresholds: Mapping[str, Threshold], precision: str) -> Threshold:
    """Return the threshold of a precision. Raises ParityError if there is none."""
    if precision not in thresholds:
        raise ParityError(
            f"there is no threshold for precision {precision!r}, only for {', '.join(thresholds)}; "
            "export the bundle again with coda export"
        )
    return thresholds[precision]


def check_threshold(
    part: str, precision: str, parity: ParityRecord, threshold: Threshold, *, must_run: bool = False
) -> None:
    """Raise ParityError naming the part, what was measured and what was asked. `parity` is of one backend and device.

    A graph that did not run fails too, but for a precision that the machine which exports may not be able to run,
    unless `must_run`.
    """
    if isinstance(parity, NotMeasured) and (must_run or precision_of(precision).onnxruntime_cpu):
        raise ParityError(f"the {precision} {part} could not be run, so its parity is unknown: {parity.reason}")
    _check_numbers(part, f"the {precision} {part}", precision, parity, threshold)
    # Where one size could not run, the others are judged nevertheless.
    for size, record in parity.batches.items():
        _check_numbers(part, f"the {precision} {part} at a batch of {size}", precision, record, threshold)


def _check_numbers(part: str, what: str, precision: str, record: ParityRecord, threshold: Threshold) -> None:
    if isinstance(record, NotMeasured):
        return
    agreement, psnr, worst = record.step_agreement, record.psnr, record.psnr_min
    if agreement is not None and agreement < threshold.min_agreement:
        raise ParityError(
            f"{what} agrees with the tokenizer on {percent(agreement)} of the tokens, "
            f"the threshold is {percent(threshold.min_agreement)} "
            f"({100 * (threshold.min_agreement - agreement):.3f} % short): {_way_out(precision, '--min-agreement')}"
        )
    if psnr is not None and psnr < threshold.min_psnr:
        raise ParityError(
            f"{what} is {psnr:.2f} dB from the tokenizer's images, the threshold is {threshold.min_psnr:.2f} dB"
            f" ({threshold.min_psnr - psnr:.2f} dB short): {_way_out(precision, '--min-psnr')}"
        )
    if worst is not None and worst < threshold.min_psnr:
        raise ParityError(
            f"the worst image of {what} is {worst:.2f} dB from the tokenizer's, "
            f"the threshold is {threshold.min_psnr:.2f} dB ({threshold.min_psnr - worst:.2f} dB short): "
            f"{_way_out(precision, '--min-psnr')}"
        )
    if part in _LOSS_WITH:
        _check_loss(part, what, precision, record, threshold)


def _check_loss(part: str, what: str, precision: str, record: Measured, threshold: Threshold) -> None:
    """Raise ParityError where reconstructions lose more of their PSNR against the input than the threshold allows."""
    if threshold.max_psnr_drop is None or threshold.worst_drop is None:
        return
    mean, sure, worst = record.psnr_drop, record.sure_psnr_drop, record.psnr_drop_max
    other = _LOSS_WITH[part]
    if mean is None or sure is None or worst is None:
        raise ParityError(
            f"what is lost through {what} was not measured, since its {other} was not run: run both, or export the "
            "bundle again"
        )
    both = f"the {precision} encoder and {what}" if part == DECODER.name else f"{what} and the {precision} {other}"
    chance = f" ± {record.psnr_drop_error:.3f}" if record.psnr_drop_error else ""
    for lost, found, allowed in (
        (f"images lose {mean:.3f}{chance} dB of PSNR", sure, threshold.max_psnr_drop),
        (f"the worst image loses {worst:.3f} dB of PSNR", worst, threshold.worst_drop),
    ):
        if found > allowed:
            raise ParityError(
                f"through {both} {lost}, the threshold is {allowed:.3f} dB ({found - allowed:.3f} dB over): "
                f"{_way_out(precision, '--max-psnr-drop')}"
            )


def _way_out(precision: str, option: str) -> str:
    other = "" if precision == FP32 else f"take {FP32}, or "
    if precision_of(precision).is_integer:
        other += "export with other images to take scales from (--calibration DIR), or "
    return f"{other}accept it with {option} when exporting"


def recorded_thresholds(manifest: Manifest) -> dict[str, Threshold]:
    """Return the thresholds a bundle was exported with, by precision; none for one made by hand.

    Raises ManifestError.
    """
    recorded = manifest.provenance.get("floors", {})
    try:
        return {name: _recorded(entry) for name, entry in recorded.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"provenance.floors is not an object of thresholds ({error}): export the bundle again"
        ) from error


def _recorded(entry: Mapping[str, float]) -> Threshold:
    drop = entry.get("max_psnr_drop")
    return Threshold(
        float(entry["min_agreement"]), float(entry["min_psnr"]), max_psnr_drop=None if drop is None else float(drop)
    )
