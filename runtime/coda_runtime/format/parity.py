"""What a measurement of an artifact on one backend and device came to, as an entry of the manifest's `parity`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .parts import GRAPHS, IMAGE

_BATCHES, _REASON, _IMAGES, _SOURCE = "batches", "reason", "images", "images_from"


def headline(part: str) -> str:
    """Return the name of the number that a part is judged by: of images "psnr", of tokens "step_agreement"."""
    return "psnr" if part in GRAPHS and GRAPHS[part].output is IMAGE else "step_agreement"


@dataclass(frozen=True)
class Measured:
    """The numbers of what ran: those of the worst size, and in `batches` each size's own where there are several.

    `numbers` are as `token_parity` or `pixel_parity` give them; a manifest may have fewer, and one made by hand may
    have anything. `images` counts what was measured on, `images_from` says where it is from.
    """

    numbers: Mapping[str, Any]
    batches: Mapping[str, ParityRecord] = field(default_factory=dict)
    images: int | None = None
    images_from: str | None = None

    @property
    def step_agreement(self) -> float | None:
        """Share of equal tokens, 0 to 1, each scale after the artifact's own; None where that was not measured."""
        return self._number("step_agreement")

    @property
    def agreement(self) -> float | None:
        """Share of equal tokens, 0 to 1, free-running; None where it is not what was measured."""
        return self._number("agreement")

    @property
    def psnr(self) -> float | None:
        """Mean over the images, in dB; None where all are identical, or where it is not what was measured."""
        return self._number("psnr")

    @property
    def psnr_min(self) -> float | None:
        """The worst image's `psnr`; None in a bundle of before it was recorded, too."""
        return self._number("psnr_min")

    @property
    def psnr_drop(self) -> float | None:
        """Mean loss in dB of a reconstruction under the tokenizer's; None where it was not measured."""
        return self._number("psnr_drop")

    @property
    def psnr_drop_error(self) -> float:
        """The standard error of `psnr_drop` over the images, in dB; 0 where it is not known."""
        return self._number("psnr_drop_error") or 0.0

    @property
    def sure_psnr_drop(self) -> float | None:
        """What of `psnr_drop` is more than chance, one standard error less: it is what thresholds are compared with."""
        return None if self.psnr_drop is None else self.psnr_drop - self.psnr_drop_error

    @property
    def psnr_drop_max(self) -> float | None:
        """The worst image's `psnr_drop`."""
        return self._number("psnr_drop_max")

    @property
    def has_psnr(self) -> bool:
        """Whether images were compared."""
        return "psnr" in self.numbers

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {**self.numbers, **_rest(self)}

    def _number(self, name: str) -> float | None:
        value = self.numbers.get(name)
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True)
class NotMeasured:
    """What could not be run, and why. `missing` is the name of the number that is null for it, None for none.

    Where one batch size of several could not run, `batches` has the numbers of the others.
    """

    reason: str
    missing: str | None = None
    batches: Mapping[str, ParityRecord] = field(default_factory=dict)
    images: int | None = None
    images_from: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        numbers = {} if self.missing is None else {self.missing: None}
        return {**numbers, _REASON: self.reason, **_rest(self)}


ParityRecord = Measured | NotMeasured


def parity_record(data: object) -> ParityRecord | None:
    """Read one entry; None for what is no object, in a manifest made by hand."""
    if not isinstance(data, Mapping):
        return None
    given, images, source = data.get(_BATCHES), data.get(_IMAGES), data.get(_SOURCE)
    rest: dict[str, Any] = {
        "batches": parity_records(given) if isinstance(given, Mapping) else {},
        "images": images if isinstance(images, int) else None,
        "images_from": source if isinstance(source, str) else None,
    }
    numbers = {name: value for name, value in data.items() if name not in (_BATCHES, _REASON, _IMAGES, _SOURCE)}
    if _REASON in data:
        return NotMeasured(str(data[_REASON]), next(iter(numbers), None), **rest)
    return Measured(numbers, **rest)


def parity_records(parity: Mapping[str, object]) -> dict[str, ParityRecord]:
    """Read an artifact's `parity`, {backend:device: entry}, without what is no object."""
    read = {where: parity_record(data) for where, data in parity.items()}
    return {where: record for where, record in read.items() if record is not None}


def parity_json(records: Mapping[str, ParityRecord]) -> dict[str, Any]:
    """Return an artifact's `parity` of records by backend and device."""
    return {where: record.to_json() for where, record in records.items()}


def unmeasured(parity: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield (where, reason) of each backend and device in an artifact's `parity` that it could not be measured on."""
    for where, record in parity_records(parity).items():
        if isinstance(record, NotMeasured):
            yield where, record.reason


def _rest(record: ParityRecord) -> dict[str, Any]:
    """Return what follows the numbers."""
    out: dict[str, Any] = {}
    if record.batches:
        out[_BATCHES] = {size: found.to_json() for size, found in record.batches.items()}
    if record.images is not None:
        out[_IMAGES] = record.images
    if record.images_from is not None:
        out[_SOURCE] = record.images_from
    return out
