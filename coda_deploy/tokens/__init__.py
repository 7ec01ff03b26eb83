"""What `coda tokenize` wrote, as datasets to train on."""

from coda_deploy.tokens.dataset import TokenDataset
from coda_deploy.tokens.stream import TokenStream

__all__ = ["TokenDataset", "TokenStream"]
