"""The unfolded tokenizer in PyTorch, eager and compiled, and the quantizer in three formulations."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.gpu.case import Case
from benchmarks.gpu.plan import Contender
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.pixels import to_pixels

Runner = Callable[[Any], Any]


def exact_float32() -> None:
    """No TF32 in what is called float32, and cuDNN chooses by measuring."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


@contextmanager
def tokenizer_run(case: Case, contender: Contender, operation: str, clock: str) -> Iterator[Runner]:
    """One operation of the tokenizer; bf16 is autocast with channels-last weights, and the quantizer stays float32."""
    exact_float32()
    # Kept from one operation to the next: compiling takes longer than all that is timed.
    run = case.kept(f"{contender.name} {contender.precision}", partial(_operations, case, contender))[operation]
    yield from_host(run, case.device) if clock == "host" else no_grad(run)


@contextmanager
def quantizer_run(case: Case, contender: Contender, operation: str, clock: str) -> Iterator[Runner]:
    """The quantizer as the paper writes it, or folded and chunked."""
    exact_float32()
    if contender.name == "folded-torch":
        yield _folded(case)
        return
    from benchmarks.bench_quantizer import textbook

    run: Runner = partial(textbook, case.tokenizer().quantizer)
    if contender.name == "textbook-compiled":
        torch._dynamo.reset()
        run = torch.compile(run, backend=case.compile_backend, dynamic=False)
    yield no_grad(run)


def _operations(case: Case, contender: Contender) -> dict[str, Runner]:
    tokenizer, kind, bf16 = case.tokenizer(), case.device.type, contender.precision == "bf16"
    if bf16:
        tokenizer.vae.to(memory_format=torch.channels_last)

    def encoder(images: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):
            return tokenizer.encode_latent(images).float()

    def decoder(ids: Tensor) -> Tensor:
        # Without the check of the ids, which waits for the GPU.
        latent = tokenizer.quantizer.embed(ids)
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):
            return to_pixels(tokenizer.decode_latent(latent).float())

    def quantizer(latent: Tensor) -> Tensor:
        return tokenizer.quantizer.encode(latent)

    parts: dict[str, Runner] = {"encoder": encoder, "quantizer": quantizer, "decoder": decoder}
    if contender.name == "torch-compile":
        torch._dynamo.reset()
        parts = {name: torch.compile(part, backend=case.compile_backend, dynamic=False) for name, part in parts.items()}
    whole = {"encode": lambda images: parts["quantizer"](parts["encoder"](images)), "decode": parts["decoder"]}
    return {**parts, **whole}


def no_grad(run: Runner) -> Runner:
    """From tensors on the device to the same."""

    def wrapped(given: Tensor) -> Any:
        with torch.no_grad():
            return run(given)

    return wrapped


def from_host(run: Runner, device: torch.device) -> Runner:
    """From numpy to numpy."""

    def wrapped(given: Any) -> Any:
        with torch.no_grad():
            return run(torch.from_numpy(given).to(device)).cpu().numpy()

    return wrapped


def _folded(case: Case) -> Runner:
    folded = copy.copy(fold_tokenizer(case.tokenizer().cpu()).quantizer)
    moved: dict[str, Any] = {
        field.name: value.to(case.device)
        for field in dataclasses.fields(folded.search)
        if isinstance(value := getattr(folded.search, field.name), Tensor)
    }
    folded.search = dataclasses.replace(folded.search, **moved)
    folded.down, folded.up = (
        [(down.to(case.device), across.to(case.device)) for down, across in matrices]
        for matrices in (folded.down, folded.up)
    )

    def run(latent: Tensor) -> Tensor:
        with torch.device(case.device):  # what it makes itself
            return cast(Tensor, folded(latent))

    return run
