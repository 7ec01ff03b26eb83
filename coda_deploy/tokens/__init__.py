"""What `coda tokenize` wrote, as a dataset to train on, and what a next-scale generator sees of tokens."""

from coda_deploy.tokens.dataset import TokenDataset
from coda_deploy.tokens.next_scale import NextScale, TorchAccumulator

__all__ = ["NextScale", "TokenDataset", "TorchAccumulator"]
