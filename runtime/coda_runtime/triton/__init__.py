"""A model repository for NVIDIA Triton Inference Server, written from a bundle. Needs neither PyTorch nor Triton."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .options import RepositoryOptions

if TYPE_CHECKING:
    from .repository import Repository, check_destination, write_repository
    from .selection import check_request

__all__ = ["Repository", "RepositoryOptions", "check_destination", "check_request", "write_repository"]

_MODULES = {
    "Repository": "repository",
    "check_destination": "repository",
    "check_request": "selection",
    "write_repository": "repository",
}


def __getattr__(name: str) -> object:
    """Import what writes a repository when it is asked for: `coda export --help` shows the options without it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
