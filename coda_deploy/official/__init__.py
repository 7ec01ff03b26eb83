"""What others publish: the official CODA checkpoints, and LDM autoencoders such as MAR's VAE.

``official:VARIANT`` and ``official:VARIANT@REVISION`` name a published checkpoint wherever a tokenizer is named.
"""

from coda_deploy.official.checkpoint import PUBLISHED, open_published
from coda_deploy.official.importer import import_official
from coda_deploy.official.ldm import find_ldm, has_statistics, read_ldm

__all__ = ["PUBLISHED", "find_ldm", "has_statistics", "import_official", "open_published", "read_ldm"]
