"""A loaded tokenizer for each device, warmed up before requests come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..format.parts import IMAGE
from ..tokenizer import Tokenizer
from .batching import Rows, Run

Load = Callable[[str], Tokenizer]
"""Device, such as "cuda:0", -> the bundle loaded there."""


class Replicas:
    """The tokenizers of one bundle, one on each device. Raises CodaError where one cannot be loaded."""

    def __init__(self, load: Load, devices: Sequence[str]) -> None:
        self.tokenizers: list[Tokenizer] = []
        try:
            for device in devices:
                self.tokenizers.append(load(device))
        except BaseException:
            self.close()
            raise

    @property
    def images_per_run(self) -> int:
        """What all of them take at once."""
        return min(tokenizer.images_per_run for tokenizer in self.tokenizers)

    @property
    def runs(self) -> list[Run]:
        """One for each device, for `Batcher`."""
        return [_run(tokenizer) for tokenizer in self.tokenizers]

    def warm_up(self, batch: int) -> None:
        """Run both models on each device, with one image and with `batch`: engines choose and allocate then.

        Engines of several batch profiles do so for each: they run once more at OPT.
        """
        spec = self.tokenizers[0].spec
        for run, tokenizer in zip(self.runs, self.tokenizers, strict=True):
            several = [artifact.profiles for artifact in tokenizer.artifacts if len(artifact.profiles) > 1]
            best = {profile[1] for profiles in several for profile in profiles if profile[1] <= batch}
            for count in sorted({1, batch} | best):
                images = np.zeros(IMAGE.shape(spec, count), IMAGE.dtype)
                run("decode", run("encode", images))

    def close(self) -> None:
        """Free them, after the runs under way."""
        for tokenizer in self.tokenizers:
            tokenizer.close()


def _run(tokenizer: Tokenizer) -> Run:
    def run(model: str, rows: Rows) -> Rows:
        return tokenizer.encode(rows) if model == "encode" else tokenizer.decode(rows)

    return run
