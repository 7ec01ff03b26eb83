"""The exponential moving average of what is trained: the weights that are deployed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages by parameter name; a plain copy until the first update with a decay above 0."""

    def __init__(self, parameters: list[tuple[str, nn.Parameter]]) -> None:
        self._parameters = parameters
        self.averages = {name: parameter.detach().clone() for name, parameter in parameters}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Set ``average = decay * average + (1 - decay) * parameter``."""
        for name, parameter in self._parameters:
            self.averages[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the parameters hold the averages inside the context."""
        kept = [parameter.detach().clone() for _, parameter in self._parameters]
        try:
            self._load(self.averages.values())
            yield
        finally:
            self._load(kept)

    @torch.no_grad()
    def _load(self, values: Iterable[Tensor]) -> None:
        for (_, parameter), value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
