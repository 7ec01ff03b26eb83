"""The settings that are compared: each backend, precision and number of threads that may run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..backends.base import LoadOptions
from ..backends.registry import is_automatic
from ..errors import InputError
from ..format.bundle import Bundle
from ..format.manifest import Manifest
from ..format.parity import Measured, parity_records
from ..format.precision import precision_of
from ..machine.processors import default_threads, physical_cores, usable_count, usable_cpus
from ..select import alternatives, choose_precision
from ..tuned import device_of


@dataclass(frozen=True)
class Candidate:
    """One setting. `threads` None is what runs where nobody names a number; `unasked` marks what "auto" would take."""

    backend: str
    precision: str
    threads: int | None
    unasked: bool = False


@dataclass(frozen=True)
class Skipped:
    """What is not measured, and why; `backend` None for a precision as a whole."""

    precision: str
    backend: str | None
    reason: str


@dataclass(frozen=True)
class Wanted:
    """What the user asks for; empty sequences leave it to what is here.

    Raises InputError for a backend that "auto" never chooses, for threads that this process may not use, and for a
    bound that is no loss.
    """

    backends: Sequence[str] = ()
    precisions: Sequence[str] = ()
    threads: Sequence[int | None] = ()
    max_psnr_drop: float | None = None

    def __post_init__(self) -> None:
        for backend in self.backends:
            if not is_automatic(backend):
                raise InputError(
                    f'backend is {backend!r}; expected some of those that backend="auto" chooses from: a record '
                    "names no other"
                )
        most = len(usable_cpus())
        for threads in self.threads:
            if threads is not None and not 1 <= threads <= most:
                raise InputError(f"threads is {threads}; expected auto, or whole numbers from 1 to {most}")
        drop = self.max_psnr_drop
        if drop is not None and not 0 <= drop <= 100:
            raise InputError(f"the PSNR may drop by {drop:g} dB; expected decibels, from 0 to 100")


def find_settings(bundle: Bundle, options: LoadOptions, wanted: Wanted) -> tuple[list[Candidate], list[Skipped]]:
    """Return what may run here on the device of `options`, and what may not. Raises InputError for a precision."""
    found: list[Candidate] = []
    skipped: list[Skipped] = []
    threads = wanted.threads or thread_choices(options)
    for name in wanted.precisions or bundle.manifest.precisions:
        precision = choose_precision(bundle.manifest, name)
        if (reason := _loses_too_much(bundle.manifest, precision, wanted.max_psnr_drop)) is not None:
            skipped.append(Skipped(precision, None, reason))
            continue
        first = True
        for backend, problem in alternatives(bundle, replace(options, precision=precision)):
            if wanted.backends and backend not in wanted.backends:
                continue
            if problem is not None:
                skipped.append(Skipped(precision, backend, problem))
                continue
            found += [Candidate(backend, precision, count, first and count is None) for count in threads]
            first = False
    return list(dict.fromkeys(found)), skipped


def thread_choices(options: LoadOptions) -> tuple[int | None, ...]:
    """Return the numbers of threads worth a try: what runs unasked, both threads of each core, and half of the cores.

    On a GPU there is nothing to choose.
    """
    if device_of(options) != "cpu":
        return (None,)
    cores = physical_cores()
    unasked = default_threads() or cores
    others = sorted({usable_count(), -(-unasked // 2)} - {unasked}, reverse=True)
    return (None, *others)


def recorded_drop(manifest: Manifest, precision: str) -> float | None:
    """Return what images lose in a precision, in dB, as the export measured it; None where nobody did."""
    if precision_of(precision).is_float32:
        return 0.0
    worst = _worst_loss(manifest, precision)
    return None if worst is None else worst.psnr_drop


def _worst_loss(manifest: Manifest, precision: str) -> Measured | None:
    records = (
        record
        for artifact in manifest.artifacts
        if artifact.precision == precision
        for record in parity_records(artifact.parity).values()
    )
    lossy = (record for record in records if isinstance(record, Measured) and record.psnr_drop is not None)
    return max(lossy, key=lambda record: record.sure_psnr_drop or 0.0, default=None)


def _loses_too_much(manifest: Manifest, precision: str, most: float | None) -> str | None:
    if most is None or precision_of(precision).is_float32:
        return None
    worst = _worst_loss(manifest, precision)
    if worst is None or worst.sure_psnr_drop is None:
        return "the bundle does not say what images lose in it"
    if worst.sure_psnr_drop <= most:  # as an export is judged: what may be chance is no loss
        return None
    return f"images lose {worst.psnr_drop:.2f} dB in it, and {most:g} dB is the most"
