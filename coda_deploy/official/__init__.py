"""What others publish: the official CODA checkpoints, and MAR's VAE."""

from coda_deploy.official.importer import import_official
from coda_deploy.official.kl16 import read_kl16

__all__ = ["import_official", "read_kl16"]
