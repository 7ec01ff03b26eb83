"""``coda eval``: how well a tokenizer, in PyTorch or as a bundle, gives images back, and how it uses its codes."""

from coda_deploy.evaluate.choice import Choice, make_metrics
from coda_deploy.evaluate.frechet import Inception
from coda_deploy.evaluate.generated import Generated, ImageSet, evaluate_generated
from coda_deploy.evaluate.meter import Metrics
from coda_deploy.evaluate.result import Evaluation
from coda_deploy.evaluate.run import evaluate
from coda_deploy.evaluate.target import Target, open_target

__all__ = [
    "Choice",
    "Evaluation",
    "Generated",
    "ImageSet",
    "Inception",
    "Metrics",
    "Target",
    "evaluate",
    "evaluate_generated",
    "make_metrics",
    "open_target",
]
