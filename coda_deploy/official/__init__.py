"""What others publish: the official CODA checkpoints, and MAR's VAE.

``official:VARIANT`` and ``official:VARIANT@REVISION`` name a published checkpoint wherever a tokenizer is named.
"""

from coda_deploy.official.checkpoint import PUBLISHED, open_published
from coda_deploy.official.importer import import_official
from coda_deploy.official.kl16 import read_kl16
from coda_deploy.tokenizer.source import SCHEMES

__all__ = ["PUBLISHED", "import_official", "read_kl16"]

# The other way round, the tokenizer would import what imports it.
SCHEMES["official"] = open_published
