"""What `coda tokenize` wrote, as a dataset to train on."""

from coda_deploy.tokens.dataset import TokenDataset

__all__ = ["TokenDataset"]
