"""Exact folding: LoRA-free VAE and attention search -> the three modules that are deployed."""

from coda_export.folding.fold import Folded, fold
from coda_export.folding.search import FoldedSearch, SearchWeights, fold_search

__all__ = ["Folded", "FoldedSearch", "SearchWeights", "fold", "fold_search"]
