"""What ``coda verify --tokenizer`` and ``--layers`` call: parity measured again, layer by layer too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coda_runtime.backends.base import LoadOptions


def parity(bundle: Path, tokenizer: str, images: Path | None = None) -> dict[str, Any]:
    """Return {artifact file: {backend: numbers}}; see `coda_deploy.export.verify_parity`."""
    from coda_deploy.evaluate.devices import threads_of_quota
    from coda_deploy.export import verify_parity

    with threads_of_quota():
        return verify_parity(bundle, tokenizer, images)


def layers(
    bundle: Path, options: LoadOptions, tokenizer: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Return each part's comparison as JSON, with the ``problem`` it fails by or None.

    See `coda_deploy.export.verify_layers`.
    """
    from coda_deploy.evaluate.devices import threads_of_quota
    from coda_deploy.export import verify_layers
    from coda_export.layers import check_layers

    found = []
    with threads_of_quota():
        for part in verify_layers(bundle, options, tokenizer):
            problem = check_layers(part)
            found.append(part.to_json() | {"problem": None if problem is None else str(problem)})
            progress(f"compared the {part.comparison.part}'s layers")
    return found
