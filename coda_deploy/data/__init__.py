"""Images for training and evaluation: where they come from, how they are cut, and in which order they are seen."""

from coda_deploy.data.centre import EvalBatch, centre_batches
from coda_deploy.data.crop import Crop
from coda_deploy.data.loader import TrainBatch, TrainLoader
from coda_deploy.data.opening import open_source
from coda_deploy.data.source import ImageSource, Skipped
from coda_deploy.errors import DataError

__all__ = [
    "Crop",
    "DataError",
    "EvalBatch",
    "ImageSource",
    "Skipped",
    "TrainBatch",
    "TrainLoader",
    "centre_batches",
    "open_source",
]
