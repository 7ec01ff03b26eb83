"""The official CODA checkpoints, read into tokenizer folders."""

from coda_deploy.official.importer import import_official

__all__ = ["import_official"]
