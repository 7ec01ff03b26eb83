"""Torch-TensorRT: the networks of the unfolded tokenizer as engines, for one batch at a time.

Pixels and quantizer stay in PyTorch, and so does what it cannot convert, which it leaves without a word: counted here.
"""

from __future__ import annotations

import importlib
import importlib.util
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.bundle_runs import Run
from benchmarks.gpu.case import Case
from benchmarks.gpu.plan import Contender
from benchmarks.gpu.torch_runs import exact_float32, from_host, no_grad
from coda_deploy import CodaTokenizer
from coda_deploy.tokenizer.model import a_channel
from coda_deploy.tokenizer.pixels import from_pixels, to_pixels
from coda_runtime.errors import BackendError, one_line

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def torch_tensorrt_run(case: Case, contender: Contender, operation: str, clock: str) -> Iterator[Run]:
    """One operation; a low precision is that of the weights and of all that the networks compute."""
    library = _library(case.device)
    exact_float32()
    dtype = _DTYPES[contender.precision]
    made = case.kept(f"{contender.name} {contender.precision}", lambda: _Networks(case.tokenizer(), dtype, library))
    run = made.operations()[operation]
    part = made.decoder if operation in ("decoder", "decode") else made.encoder
    yield Run(from_host(run, case.device) if clock == "host" else no_grad(run), nodes=lambda: part.nodes)


def nodes_of(compiled: nn.Module) -> dict[str, int]:
    """What runs where: engines of TensorRT, and operators that were left to PyTorch.

    A compiled module is a graph that calls engines, which are modules of the library, and graphs of what it left.
    """
    graphs = [module for module in compiled.modules() if isinstance(module, torch.fx.GraphModule)]
    calls = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op.startswith("call_")]
    functions = [node.target for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    engines = sum("TensorRT" in type(module).__name__ for module in compiled.modules())
    inlined = sum("execute_engine" in call for call in calls)
    left = sum(target is not operator.getitem for target in functions) - inlined
    return {"TensorRT engines": engines + inlined, "PyTorch": left}


class _Compiled:
    """A network, compiled for each batch that comes; ``nodes`` are those of the latest."""

    def __init__(self, network: nn.Module, library: Any) -> None:
        self._network, self._library = network, library
        self._made: dict[int, tuple[Callable[[Tensor], Tensor], Mapping[str, int]]] = {}
        self.nodes: Mapping[str, int] = {}

    def __call__(self, given: Tensor) -> Tensor:
        if len(given) not in self._made:
            program = torch.export.export(self._network, (given,), strict=False)
            compiled = self._library.dynamo.compile(
                program,
                arg_inputs=[given],
                use_explicit_typing=True,  # the types of the module, nothing lower
                disable_tf32=True,
                min_block_size=1,
                pass_through_build_failures=True,  # or it goes on in PyTorch
            )
            self._made[len(given)] = compiled, nodes_of(compiled)
        run, self.nodes = self._made[len(given)]
        return run(given)


class _Networks:
    def __init__(self, tokenizer: CodaTokenizer, dtype: torch.dtype, library: Any) -> None:
        self._tokenizer, self._dtype = tokenizer, dtype
        # The quantizer is used apart, in float32.
        self.encoder = _Compiled(_Encoder(tokenizer).to(dtype), library)
        self.decoder = _Compiled(_Decoder(tokenizer).to(dtype), library)

    def operations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name."""
        quantizer = self._tokenizer.quantizer

        def encoder(images: Tensor) -> Tensor:
            return self.encoder(from_pixels(images).contiguous().to(self._dtype)).float()

        def decoder(ids: Tensor) -> Tensor:
            return to_pixels(self.decoder(quantizer.embed(ids).to(self._dtype)).float())

        return {
            "encoder": encoder,
            "decoder": decoder,
            "encode": lambda images: quantizer.encode(encoder(images)),
            "decode": decoder,
        }


class _Encoder(nn.Module):
    def __init__(self, tokenizer: CodaTokenizer) -> None:
        super().__init__()
        self.vae, self._config = tokenizer.vae, tokenizer.config

    def forward(self, pixels: Tensor) -> Tensor:
        """Float pixels [B, 3, H, W] to the latent, as ``CodaTokenizer.encode_latent``."""
        mode = self._config.family.encode(self.vae, pixels)
        return a_channel(self._config.latent_scale, mode) * (mode - a_channel(self._config.latent_shift, mode))


class _Decoder(nn.Module):
    def __init__(self, tokenizer: CodaTokenizer) -> None:
        super().__init__()
        self.vae, self._config = tokenizer.vae, tokenizer.config

    def forward(self, latent: Tensor) -> Tensor:
        """The latent to float pixels [B, 3, H, W], as ``CodaTokenizer.decode_latent``."""
        scale, shift = (a_channel(v, latent) for v in (self._config.latent_scale, self._config.latent_shift))
        return self._config.family.decode(self.vae, latent / scale + shift)


def _library(device: torch.device) -> Any:
    """Import torch_tensorrt. Raises BackendError."""
    if importlib.util.find_spec("torch_tensorrt") is None:
        minor = ".".join(torch.__version__.split(".")[:2])
        raise BackendError(f"torch_tensorrt is not installed; pip install torch-tensorrt=={minor}.*")
    if device.type != "cuda":
        raise BackendError("Torch-TensorRT runs on NVIDIA GPUs, and the device here is the CPU")
    try:
        return importlib.import_module("torch_tensorrt")
    except Exception as error:  # a library it lacks, or a PyTorch it was not built for
        raise BackendError(f"torch_tensorrt is installed and does not import: {one_line(error, named=True)}") from error
