"""What ``scheme:rest`` may begin with where a tokenizer is named.

Beside the packages that name and open tokenizers, since those that open them import PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coda_deploy.tokenizer.source import Source

SCHEMES: dict[str, Callable[[str], Source]] = {}
