"""One shape as it is measured: inputs, reference, and how far an output is from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.shapes import folder
from coda_deploy import CodaTokenizer
from coda_deploy.reference import TorchReference
from coda_deploy.tokenizer import storage
from coda_runtime.format.parts import IMAGE, OPERATIONS, PARTS
from coda_runtime.parity import ParitySamples, mean_psnr, token_parity

T = TypeVar("T")
INPUT_SETS = 4
"""Different inputs that take turns, so that a small batch is not read from the cache each time."""


def parts_of(operation: str) -> tuple[str, ...]:
    """Return the parts that an operation of the plan runs: a part's own name stands for that part alone."""
    return OPERATIONS.get(operation, (operation,))


class Case:
    """A prepared shape on a device."""

    def __init__(self, work: Path, shape: str, device: str, compile_backend: str) -> None:
        self.shape, self.device, self.compile_backend = shape, torch.device(device), compile_backend
        self.folder = folder(work, shape)
        self.spec = storage.read_config(self.folder / "tokenizer").spec
        self.samples = ParitySamples.load(self.folder / "reference.npz", self.spec)
        self._steps: dict[bytes, NDArray[np.int32]] = {}
        self._kept: tuple[str, Any] | None = None

    @cached_property
    def work(self) -> dict[str, dict[str, float]]:
        """Least operations and parameters of the encoder and the decoder."""
        found: dict[str, dict[str, float]] = json.loads((self.folder / "work.json").read_text(encoding="utf-8"))
        return found

    @cached_property
    def reference(self) -> TorchReference:
        """The unfolded tokenizer on the CPU, in float32."""
        return TorchReference(CodaTokenizer.from_pretrained(self.folder / "tokenizer"))

    def tokenizer(self) -> CodaTokenizer:
        """The unfolded tokenizer on the device, a new one."""
        return CodaTokenizer.from_pretrained(self.folder / "tokenizer").requires_grad_(False).to(self.device)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` made under this name; another name lets go of it."""
        if self._kept is None or self._kept[0] != name:
            self._kept = None
            self._kept = name, make()
        found: T = self._kept[1]
        return found

    def drop(self) -> None:
        """Let go of what is kept."""
        self._kept = None

    def inputs(self, operation: str, clock: str, batch: int) -> list[Any]:
        """Different inputs of one size: numpy arrays for the clock "host", or tensors on the device."""
        source = self.samples.of(PARTS[parts_of(operation)[0]].input)
        sets = [np.ascontiguousarray(source[self._rows(batch, shift)]) for shift in range(INPUT_SETS)]
        return sets if clock == "host" else [torch.from_numpy(array).to(self.device) for array in sets]

    def _rows(self, batch: int, shift: int = 0) -> NDArray[np.int64]:
        return (np.arange(batch) + shift) % len(self.samples.images)

    def parity(self, operation: str, out: NDArray[Any], batch: int) -> dict[str, Any]:
        """An output of the first of `inputs` beside the reference's.

        Tokens: step agreement of the distinct photographs, free-running agreement of all rows. Pixels: mean PSNR of all
        rows against the reference's images, None where all are identical.
        """
        rows, count = self._rows(batch), min(batch, len(self.samples.images))
        if PARTS[parts_of(operation)[-1]].output is IMAGE:
            return {"psnr": mean_psnr(out, self.samples.decoded[rows])}
        extra = {}
        if operation == "encoder":
            wanted = self.samples.latent[rows]
            size = np.linalg.norm(wanted.reshape(batch, -1), axis=1)
            gap = np.linalg.norm((out - wanted).reshape(batch, -1), axis=1)
            extra["latent_error"] = float((gap / size).max())
            out = self.reference.encode(np.ascontiguousarray(out[:count]))
        found = token_parity(out[:count], self.samples.ids[:count], self._step(out[:count]), self.spec.scales)
        agreement = float((out == self.samples.ids[rows[: len(out)]]).mean())
        return {"step_agreement": found["step_agreement"], "agreement": agreement, **extra}

    def _step(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        key = ids.tobytes()
        if key not in self._steps:
            self._steps[key] = self.reference.step(self.samples.latent[: len(ids)], np.ascontiguousarray(ids))
        return self._steps[key]
