"""What `coda tune` tells of its outcome: as JSON, and in lines beside its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ..backends.base import LoadOptions
from ..format.bundle import Bundle
from ..io.counts import count
from ..report.words import times
from ..tuned import TUNED, bundle_key, device_of, facts_of
from .aims import Aim
from .run import Outcome
from .settings import recorded_drop


def to_json(outcome: Outcome, bundle: Bundle, options: LoadOptions, aim: Aim) -> dict[str, Any]:
    """Return plain data: what was measured in `rows`, in `best` what is recorded of each precision."""
    device, best = device_of(options), set(outcome.best.values())
    rows = []
    for row in outcome.rows:
        setting = outcome.settings[row.setting]
        rows.append(
            {
                "operation": row.operation,
                "precision": setting.precision,
                "backend": setting.backend,
                "threads": setting.threads,
                "batch": row.batch,
                "latency_s": row.latency_s,
                "images_per_s": row.images_per_s,
                "processes": row.processes,
                "disturbed": row.disturbed,
                "unasked": setting.unasked,
                "best": row in best,
            }
        )
    return {
        "bundle": str(bundle.folder),
        "bundle_key": bundle_key(bundle),
        "device": device,
        "aim": str(aim),
        "facts": dict(facts_of(device)),
        "default_precision": bundle.manifest.default_precision,
        "rows": rows,
        "best": {name: asdict(tuned) for name, tuned in outcome.tuned.items()},
        "psnr_drop": {name: recorded_drop(bundle.manifest, name) for name in bundle.manifest.precisions},
        "skipped": [asdict(of) for of in outcome.skipped],
        "warnings": list(outcome.warnings),
    }


def skipped(outcome: Outcome) -> Iterator[str]:
    """Yield what was not measured, and why."""
    for of in outcome.skipped:
        yield f"{of.precision}: {of.reason}" if of.backend is None else f"{of.precision} by {of.backend}: {of.reason}"


def advice(outcome: Outcome, bundle: Bundle) -> Iterator[str]:
    """Yield what the best settings give beside those that ran before, and what another precision would give."""
    default = bundle.manifest.default_precision
    for operation in TUNED:
        best = outcome.best.get((default, operation))
        before = None if best is None else outcome.unasked(default, operation, best.batch)
        if best is not None and before is not None:
            gain = "as without a record" if best == before else f"{times(before.latency_s / best.latency_s)} as fast"
            setting = outcome.settings[best.setting]
            yield f"{operation} in {default}: {setting.backend}, {_threads(setting.threads)}, {gain}"
    for precision in outcome.tuned:
        if precision == default or any((default, operation) not in outcome.best for operation in TUNED):
            continue
        gains = " and ".join(
            f"{operation} {times(outcome.best[precision, operation].images_per_s / was.images_per_s)} as fast"
            for operation in TUNED
            for was in [outcome.best[default, operation]]
        )
        drop = recorded_drop(bundle.manifest, precision)
        loses = "the bundle does not say what images lose" if drop is None else f"images lose {drop:.2f} dB"
        ask = f'load(..., precision="{precision}"), --precision {precision}'
        yield f"precision {precision} would {gains}; {loses}: {ask}"


def _threads(threads: int | None) -> str:
    return "its own threads" if threads is None else count(threads, "thread")
