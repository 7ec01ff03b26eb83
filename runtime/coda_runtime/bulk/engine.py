"""Which engine the encoders run on: the arguments of `coda_runtime.load` that do not change what ids mean."""

from __future__ import annotations

from dataclasses import dataclass

from ..backends.base import Provider
from ..errors import InputError
from ..loading import load
from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class Engine:
    """A bundle as each encoder loads it. `bundle` is a path that every node sees, or a Hub id."""

    bundle: str
    precision: str
    device: str = "auto"
    backend: str = "auto"
    providers: tuple[Provider, ...] | None = None
    threads: int | None = None
    allow_host_code: bool = False

    def __post_init__(self) -> None:
        if self.device.startswith("cuda:"):
            raise InputError(
                f'device is {self.device!r}, and Ray gives each encoder a GPU of its own; ask for "cuda", and choose '
                "GPUs with CUDA_VISIBLE_DEVICES"
            )

    def open(self) -> Tokenizer:
        """Load it. Raises CodaError as `coda_runtime.load` does."""
        return load(
            self.bundle,
            self.device,
            self.backend,
            self.precision,
            self.providers,
            self.threads,
            allow_host_code=self.allow_host_code,
        )
