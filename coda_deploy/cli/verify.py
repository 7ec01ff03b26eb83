"""What ``coda verify --tokenizer`` calls: parity measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def parity(bundle: Path, tokenizer: str, images: Path | None = None) -> dict[str, Any]:
    """Return {artifact file: {backend: numbers}}; see :func:`coda_deploy.export.verify_parity`."""
    from coda_deploy.evaluate.devices import threads_of_quota
    from coda_deploy.export import verify_parity

    with threads_of_quota():
        return verify_parity(bundle, tokenizer, images)
