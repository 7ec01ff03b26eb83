"""Which formats there are, by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from coda_deploy.tokenizer import config
from coda_deploy.train import checkpoint
from coda_runtime.bench import results
from coda_runtime.bulk import manifest as tokens
from coda_runtime.bulk import plan
from coda_runtime.format import manifest
from tests.compatibility.versions import RELEASED

# A number rises only where an older reader would misread what is written now: see CONTRIBUTING.md.
NOW = {
    "bundle": manifest.FORMAT_VERSION,
    "tokenizer": config.CONFIG_VERSION,
    "tokens": tokens.FORMAT_VERSION,
    "plan": plan.FORMAT_VERSION,
    "checkpoint": checkpoint.FORMAT_VERSION,
    "bench": results.FORMAT_VERSION,
}
WRITTEN = {RELEASED / "0.1": dict.fromkeys(NOW, 1)}


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _plan_number(path: Path) -> int:
    metadata = pa.ipc.open_file(path).schema.metadata
    return int(json.loads(metadata[b"coda.plan"])["settings"]["format_version"])


def test_what_is_written_now() -> None:
    """Whoever changes a number changes it here too, and says why in CHANGELOG.md."""
    numbers = {"bundle": 1, "tokenizer": 1, "tokens": 1, "plan": 1, "checkpoint": 1, "bench": 2}
    assert numbers == NOW


def test_what_was_written(written: Path) -> None:
    (step,) = (written / "training" / "checkpoints").iterdir()
    (vae_step,) = (written / "vae-training" / "checkpoints").iterdir()
    assert _json(step / "training.json")["format_version"] == _json(vae_step / "training.json")["format_version"]
    found = {
        "bundle": _json(written / "bundle" / "manifest.json")["format_version"],
        "tokenizer": _json(written / "tokenizer" / "config.json")["format_version"],
        "tokens": _json(written / "tokens" / "manifest.json")["format_version"],
        "plan": _plan_number(written / "tokens" / "plan.arrow"),
        "checkpoint": _json(step / "training.json")["format_version"],
        "bench": _json(written / "bench.json")["format_version"],
    }
    assert found == WRITTEN.get(written, NOW)
