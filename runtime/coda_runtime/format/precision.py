"""The precisions that graphs come in, and all that depends on one.

A new precision is an entry of `PRECISIONS`, and a way to fold the graphs into it in the exporter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InputError

FP32, FP16, BF16, INT8 = "fp32", "fp16", "bf16", "int8"


@dataclass(frozen=True)
class Threshold:
    """`min_agreement`: share of tokens, 0 to 1, by step agreement; `min_psnr`: dB between the decoded images.

    The PSNR is held to it as the mean over the images, and that of the worst image too. `max_psnr_drop` is in dB, None
    for no such bound: by how much the PSNR of reconstructions against their input may fall under the reference's, in
    the mean over the images, where encoder and decoder are both in the precision. Of that mean one standard error over
    the images is taken away before it is compared: a few images decide nothing finer. An image's own PSNR may fall by
    `worst_drop`.
    """

    min_agreement: float
    min_psnr: float
    max_psnr_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what every comparison would let through."""
        if not (0 <= self.min_agreement <= 1 and math.isfinite(self.min_psnr)):
            raise InputError(
                f"a threshold must be an agreement from 0 to 1 and a finite PSNR, found {self.min_agreement} and "
                f"{self.min_psnr} dB"
            )
        if self.max_psnr_drop is not None and not (math.isfinite(self.max_psnr_drop) and self.max_psnr_drop >= 0):
            raise InputError(
                f"a threshold's greatest loss of PSNR must be a finite number of dB from 0 on, found "
                f"{self.max_psnr_drop} dB"
            )

    @property
    def worst_drop(self) -> float | None:
        """The greatest loss in dB of a single image, None for no bound.

        Four times the mean's: which tokens turn out otherwise is chance. The sample's int8 graphs lose 0.02 dB in the
        mean over eight photographs by OpenVINO, and 0.35 dB of the worst.
        """
        return None if self.max_psnr_drop is None else 4 * self.max_psnr_drop

    def to_json(self) -> dict[str, float]:
        """Return the entry of the manifest's `provenance.floors`; what is not bounded is left out."""
        bounds = {"min_agreement": self.min_agreement, "min_psnr": self.min_psnr}
        return bounds if self.max_psnr_drop is None else {**bounds, "max_psnr_drop": self.max_psnr_drop}


@dataclass(frozen=True)
class Precision:
    """What a graph in this precision computes in, is held to, and needs. The defaults are those of an unknown one."""

    name: str
    element_type: str = ""
    """Of the convolutions and matrix products, as PyTorch names it."""
    itemsize: int = 0
    """Bytes of a weight."""
    threshold: Threshold | None = None
    """What an export is held to by default."""
    min_opset: int = 1
    """The first ONNX opset whose convolutions take the type."""
    tensorrt_type: str = ""
    """TensorRT's name of the type, in a network."""
    tensorrt_pattern: str = ""
    """What TensorRT's inspector calls it in a layer, as a regular expression, whatever the case."""
    min_share: float = 0.0
    """Of an engine's convolutions, and of its matrix products where it has none or is in float32, the share that must
    be in the type."""
    onnxruntime_cpu: bool = True
    """Whether onnxruntime's own CPU provider runs it. Where not, an export may leave it unmeasured."""
    layer_error: float = 0.08
    """What one layer may lose by itself, relative to its output; `coda verify --layers` holds it to that.

    Layers of the sample lose at most 4e-6 in fp32, 0.0044 in bf16 and 0.034 in int8, of MAR's random encoder 0.065."""
    openvino_hint: str | None = None
    """The inference precision to set on OpenVINO's plugin, None to leave it alone."""
    openvino_pattern: str = ""
    """What OpenVINO calls it in a layer that it has compiled, as a regular expression; empty where the backend openvino
    does not run it."""

    @property
    def is_float32(self) -> bool:
        """Whether it computes in float32, which TF32 would round."""
        return self.element_type == "float32"

    @property
    def is_lowered(self) -> bool:
        """Whether the exporter lowers parts of the graph to it."""
        return bool(self.element_type) and not self.is_float32

    @property
    def is_integer(self) -> bool:
        """Whether weights and activations are integers with scales, which are made of the finished float32 graph."""
        return self.element_type.startswith("int")


# A graph that was not lowered has none. Of one that was, the last convolution stays in float32, of integers the first
# too; each can be four after a doubling, beside which a small VAE has few others.
_LOWERED_SHARE = 0.25

# fp32's threshold is the contract. The others stand below what the sample tokenizer gave on the shipped photographs:
# benchmarks/bench_precision.py measures it, docs/precision.md tells it.
# Left to itself OpenVINO computes float32 and fp16 graphs in bf16 on a CPU with AMX.
PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision(
            FP32,
            "float32",
            itemsize=4,
            threshold=Threshold(0.999, 55.0),
            layer_error=1e-4,
            tensorrt_type="FLOAT",
            tensorrt_pattern="fp32|tf32|float",
            min_share=1.0,
            openvino_hint="f32",
            openvino_pattern="f32",
        ),
        Precision(
            FP16,
            "float16",
            itemsize=2,
            threshold=Threshold(0.99, 55.0),
            layer_error=0.005,
            tensorrt_type="HALF",
            tensorrt_pattern="fp16|half|float16",
            min_share=_LOWERED_SHARE,
            openvino_hint="f32",
        ),
        Precision(
            BF16,
            "bfloat16",
            itemsize=2,
            threshold=Threshold(0.93, 45.0),
            layer_error=0.02,
            min_opset=22,
            tensorrt_type="BF16",
            tensorrt_pattern="bf16|bfloat16|bfp16",
            min_share=_LOWERED_SHARE,
            onnxruntime_cpu=False,
            openvino_pattern="bf16",
        ),
        # Judged by what a user loses: the image. A token that differs is most often a neighbour as good as the other.
        Precision(
            INT8,
            "int8",
            itemsize=1,
            threshold=Threshold(0.0, 42.0, max_psnr_drop=0.1),
            min_opset=13,
            tensorrt_type="INT8",
            tensorrt_pattern="(?<!u)int8",
            min_share=_LOWERED_SHARE,
            openvino_hint="f32",
            openvino_pattern="[iu]8",
        ),
    )
}
"""By name. The last `tensorrt_pattern` is tried first: "BFloat16" contains "Float", and "BFP16" contains "FP16"."""

DEFAULT_THRESHOLDS: Mapping[str, Threshold] = {
    name: precision.threshold for name, precision in PRECISIONS.items() if precision.threshold is not None
}


def precision_of(name: str) -> Precision:
    """Return the precision of that name; a bundle of a later version may have one that is unknown here."""
    return PRECISIONS.get(name, Precision(name))


def how_to_add(name: str) -> str:
    """Return what gives a bundle one more precision and keeps all else of it, as the end of a message."""
    return f"add it: coda export TOKENIZER --into BUNDLE --precision {name}"
