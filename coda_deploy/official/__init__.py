"""What others publish: the official CODA checkpoints, and MAR's VAE.

``official:VARIANT`` and ``official:VARIANT@REVISION`` name a published checkpoint wherever a tokenizer is named.
"""

from coda_deploy.official.checkpoint import PUBLISHED, open_published
from coda_deploy.official.importer import import_official
from coda_deploy.official.kl16 import read_kl16

__all__ = ["PUBLISHED", "import_official", "open_published", "read_kl16"]
