"""The operators that a bundle's graphs may hold, and the bounds they are held to.

An engine library runs whatever a file says, in this process. On the list is what turns tensors into tensors and does an
amount of work that its tensors' sizes give; graph_rules.py asks for more where an operator would otherwise run for ever
or end the process. Left out are strings, sequences, optional values and maps, random numbers, decoders of files, and
whatever nobody here has needed. int8's operators are on it.
"""

from __future__ import annotations

from collections.abc import Mapping

ONNX, MICROSOFT = b"", b"com.microsoft"
"""Domains of operators: ONNX's own, of which "ai.onnx" is another name, and onnxruntime's."""

OPSETS: Mapping[bytes, range] = {ONNX: range(11, 29), MICROSOFT: range(1, 2)}
"""The versions of each domain that the list was drawn up for. Before 11 some operators take as attributes what they
take as inputs now, and before 9 a Scan is another operator."""

_CONVOLUTIONS = "Conv AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool"
_PRODUCTS = "MatMul Gemm Einsum Attention Det"
_NORMALISATIONS = (
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization "
    "MeanVarianceNormalization RMSNormalization"
)
_ELEMENTWISE = (
    "Abs Add And Ceil Celu Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal "
    "Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Swish Tanh ThresholdedRelu Where Xor"
)
_OVER_AN_AXIS = (
    "ArgMax ArgMin CumSum LogSoftmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare Softmax TopK"
)
_SHAPES = (
    "Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements "
    "Identity OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze "
    "Tile Transpose Trilu Unsqueeze"
)
_INTEGERS = "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger"
_OF_MICROSOFT = (
    "QuantizeLinear DequantizeLinear QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool "
    "QLinearLeakyRelu QLinearMul QLinearSigmoid QLinearSoftmax BiasGelu FastGelu FusedConv FusedGemm FusedMatMul Gelu "
    "QuickGelu"
)

CONTROL: Mapping[bytes, tuple[bytes, ...]] = {
    b"If": (b"then_branch", b"else_branch"),
    b"Loop": (b"body",),
    b"Scan": (b"body",),
}
"""The operators that run graphs of their own, with the attributes that hold these."""


def _names(*groups: str) -> frozenset[bytes]:
    return frozenset(name.encode() for group in groups for name in group.split())


OPERATORS: Mapping[bytes, frozenset[bytes]] = {
    ONNX: _names(_CONVOLUTIONS, _PRODUCTS, _NORMALISATIONS, _ELEMENTWISE, _OVER_AN_AXIS, _SHAPES, _INTEGERS)
    | CONTROL.keys(),
    MICROSOFT: _names(_OF_MICROSOFT),
}
"""By domain. A file may call others only where it defines them as functions of these."""

DIVISIONS = frozenset({b"Div", b"Mod"})
"""Of integers, a processor answers a division by 0, and of the least number by -1, by ending the process."""

POSITIVE = frozenset(
    b"group groups num_groups num_heads q_num_heads kv_num_heads strides dilations kernel_shape blocksize "
    b"num_outputs".split()
)
"""Attributes that sizes are divided by: onnxruntime does so with 0 in some operators, which ends the process."""

MAX_NUMBER = 2**31 - 1
"""In an attribute, up or down: axes, sizes and strides. Beyond that onnxruntime's own sums overflow."""

MAX_NODES = 4096
"""In one file, functions counted as often as they are called: onnxruntime's optimisers take time by the square of it.
The largest graph that the exporter writes has some hundreds."""

MAX_NODE_RUNS = 1_000_000
"""In one run of a file, loops counted. The search among 2^24 codes, which is more than a manifest may name, takes a
quarter of it."""

MAX_CALLS = 8
"""Functions that call each other, in a row."""
