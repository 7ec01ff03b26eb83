"""``coda eval``: how well a tokenizer, in PyTorch or as a bundle, gives images back, and how it uses its codes."""

from coda_deploy.evaluate.frechet import Inception
from coda_deploy.evaluate.meter import Metrics
from coda_deploy.evaluate.result import Evaluation
from coda_deploy.evaluate.run import evaluate
from coda_deploy.evaluate.similarity import Perceptual
from coda_deploy.evaluate.subject import Subject, open_subject

__all__ = ["Evaluation", "Inception", "Metrics", "Perceptual", "Subject", "evaluate", "open_subject"]
