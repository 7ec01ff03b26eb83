"""What `coda tokenize` wrote, as datasets to train on, and what a next-scale generator sees of tokens."""

from coda_deploy.tokens.dataset import TokenDataset
from coda_deploy.tokens.next_scale import NextScale, TorchAccumulator
from coda_deploy.tokens.stream import TokenStream

__all__ = ["NextScale", "TokenDataset", "TokenStream", "TorchAccumulator"]
