"""A model repository for NVIDIA Triton Inference Server, written from a bundle. Needs neither PyTorch nor Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names
from .options import RepositoryOptions

if TYPE_CHECKING:
    from .repository import Repository, check_destination, write_repository
    from .selection import check_request

__all__ = ["Repository", "RepositoryOptions", "check_destination", "check_request", "write_repository"]

# `coda export --help` shows the options without what writes a repository.
_LAZY = {
    "Repository": "repository",
    "check_destination": "repository",
    "check_request": "selection",
    "write_repository": "repository",
}

__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
