"""A model repository for NVIDIA Triton Inference Server, written from a bundle. Needs neither PyTorch nor Triton."""

from .options import RepositoryOptions
from .repository import Repository, check_destination, write_repository
from .selection import check_request

__all__ = ["Repository", "RepositoryOptions", "check_destination", "check_request", "write_repository"]
