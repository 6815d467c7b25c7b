"""What an operator costs: its multiply-accumulates, counted from the shapes of one run.

Counted are products that are summed up: convolutions, matrix products, recurrent cells, attention.
An addition of a bias, a product element by element, a pool, a norm or an interpolation counts as
nothing, as is usual where "MACs" of networks are compared. Products with padding are counted.

The formulas follow the operators' definitions (https://onnx.ai/onnx/operators, and for the domain
com.microsoft https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import onnx

from edged.compiler._graph import Graph, Node

__all__ = ["COUNTED", "FREE", "macs"]


def macs(graph: Graph, node: Node) -> int | None:
    """Multiply-accumulates of *node* in one run; None where they are not known.

    They are not known for operators that this module does not list, for some whose number depends
    on how they are carried out (a Fourier transform), for branches and loops with work in them,
    and where a shape is not known before the run.
    """
    if node.op in FREE:
        return 0
    rule = COUNTED.get(node.op)
    if rule is not None:
        try:
            return rule(graph, node)
        except _UnknownError:
            return None
    bodies = list(_bodies(node))
    return 0 if bodies and all(_is_free(body) for body in bodies) else None


class _UnknownError(Exception):
    """A shape that the count depends on is not known."""


def _shape(graph: Graph, name: str) -> tuple[int, ...]:
    if name in graph.constants:
        return graph.constants[name].shape
    value = graph.values.get(name)
    if value is None or value.shape is None:
        raise _UnknownError
    return value.shape


def _ranked(graph: Graph, name: str, rank: int) -> tuple[int, ...]:
    """The shape of *name*, which must have *rank* dimensions."""
    shape = _shape(graph, name)
    if len(shape) != rank:
        raise _UnknownError
    return shape


def _is_free(body: onnx.GraphProto) -> bool:
    return all(node.op_type in FREE or _has_free_bodies(node) for node in body.node)


def _has_free_bodies(node: onnx.NodeProto) -> bool:
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return bool(bodies) and all(_is_free(body) for body in bodies)


def _bodies(node: Node) -> Iterator[onnx.GraphProto]:
    """The graphs of a branch or loop."""
    return (value for value in node.attributes.values() if isinstance(value, onnx.GraphProto))


def _convolution(weights: int) -> Callable[[Graph, Node], int]:
    """Every element of the output sums C_in / groups · window products; [M, C_in / groups, …]."""

    def count(graph: Graph, node: Node) -> int:
        _, *kernel = _shape(graph, node.operand(weights))
        return math.prod(_shape(graph, node.output)) * math.prod(kernel)

    return count


def _transposed_convolution(graph: Graph, node: Node) -> int:
    """Every element of the input goes into C_out / groups · window products; [C_in, M, …]."""
    _, *kernel = _shape(graph, node.operand(1))
    return math.prod(_shape(graph, node.operand(0))) * math.prod(kernel)


def _gemm(graph: Graph, node: Node) -> int:
    """A [M, K] or its transpose, and an output of [M, N]."""
    left = _ranked(graph, node.operand(0), 2)
    inner = left[0] if node.attributes.get("transA") else left[1]
    return inner * math.prod(_ranked(graph, node.output, 2))


def _product(graph: Graph, node: Node) -> int:
    """As numpy.matmul: every element of the output sums as many products as A has columns."""
    left = _shape(graph, node.operand(0))
    if not left:
        raise _UnknownError
    rows = len(left) > 1 and node.attributes.get("transA")
    return (left[-2] if rows else left[-1]) * math.prod(_shape(graph, node.output))


def _blockwise_product(graph: Graph, node: Node) -> int:
    """A [.., K] by packed weights of *K* by *N*."""
    return math.prod(_shape(graph, node.operand(0))) * int(node.attributes["N"])


def _einsum(graph: Graph, node: Node) -> int:
    """Two operands at a time from the left, as ONNX Runtime does it.

    An index is summed up as soon as nothing behind it reads it.
    """
    shapes = [_shape(graph, name) for name in node.inputs]
    text = node.attributes["equation"].decode().replace(" ", "")
    left, arrow, result = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise _UnknownError
    sizes: dict[str, int] = {}
    indices: list[list[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        free = len(shape) - len(before) - len(after)
        if free < 0 or (free and not dots):
            raise _UnknownError
        # Dimensions under an ellipsis are counted from the right.
        names = [*before, *(f"...{free - place}" for place in range(free)), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
        indices.append(names)
    if arrow:
        kept = {*result.replace("...", ""), *(n for n in sizes if n.startswith("..."))}
    else:
        letters = left.replace("...", "").replace(",", "")
        kept = {n for n in sizes if n.startswith("...") or letters.count(n) == 1}
    total = 0
    joined = set(indices[0])
    for place, names in enumerate(indices[1:], 1):
        joined |= set(names)
        total += math.prod(sizes[name] for name in joined)
        wanted = kept.union(*indices[place + 1 :])
        joined &= wanted
    return total


def _recurrent(gates: int) -> Callable[[Graph, Node], int]:
    """Each gate multiplies the input and the state before, at every step, in every direction."""

    def count(graph: Graph, node: Node) -> int:
        first, second, size = _ranked(graph, node.operand(0), 3)
        directions, rows, width = _ranked(graph, node.operand(1), 3)
        hidden = rows // gates
        if width != size:
            raise _UnknownError
        return directions * first * second * gates * hidden * (size + hidden)

    return count


def _attention(graph: Graph, node: Node) -> int:
    """Scaled dot products: Q·Kᵀ and their sums of V, of ONNX or, with *num_heads*, Microsoft's."""
    if "num_heads" in node.attributes and "q_num_heads" not in node.attributes:
        return _projected_attention(graph, node)
    query, key, value = (_shape(graph, node.operand(place)) for place in range(3))
    if len(query) == 4:
        batch, heads, length, depth = query
        keys, value_depth = key[2], value[3]
    elif len(query) == 3:
        heads = int(node.attributes["q_num_heads"])
        groups = int(node.attributes["kv_num_heads"])
        batch, length, width = query
        depth, keys, value_depth = width // heads, key[1], value[2] // groups
    else:
        raise _UnknownError
    if node.operand(4):
        keys += _ranked(graph, node.operand(4), 4)[2]
    return batch * heads * length * keys * (depth + value_depth)


def _projected_attention(graph: Graph, node: Node) -> int:
    """com.microsoft: X [B, L, D] by weights of Q, K and V [D, 3·H], and the attention of these."""
    batch, length, width = _ranked(graph, node.operand(0), 3)
    columns = _ranked(graph, node.operand(1), 2)[1]
    sizes = node.attributes.get("qkv_hidden_sizes") or [columns // 3] * 3
    past = node.operand(8 if node.op == "QAttention" else 4)
    keys = length + (_ranked(graph, past, 5)[3] if past else 0)
    return batch * length * (width * columns + keys * (int(sizes[0]) + int(sizes[2])))


def _multi_head_attention(graph: Graph, node: Node) -> int:
    """com.microsoft: Q [B, L, H], K and V [B, S, H]; packed forms are not counted."""
    if node.operand(6) or not node.operand(1) or not node.operand(2):
        raise _UnknownError
    batch, length, hidden = _ranked(graph, node.operand(0), 3)
    _, keys, _ = _ranked(graph, node.operand(1), 3)
    _, _, value_hidden = _ranked(graph, node.operand(2), 3)
    return batch * length * keys * (hidden + value_hidden)


def _affine_grid(graph: Graph, node: Node) -> int:
    """theta [N, d, d + 1] by every point of a grid [N, …, d], in homogeneous coordinates."""
    grid = _shape(graph, node.output)
    return math.prod(grid) * (grid[-1] + 1)


def _causal_convolution(graph: Graph, node: Node) -> int:
    """Depthwise over time: weights [C, 1, K]."""
    return math.prod(_shape(graph, node.output)) * _shape(graph, node.operand(1))[-1]


COUNTED: Final[dict[str, Callable[[Graph, Node], int]]] = {
    "AffineGrid": _affine_grid,
    "Attention": _attention,
    "CausalConvWithState": _causal_convolution,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "DeformConv": _convolution(1),
    "DynamicQuantizeMatMul": _product,
    "Einsum": _einsum,
    "FusedConv": _convolution(1),
    "FusedGemm": _gemm,
    "FusedMatMul": _product,
    "GRU": _recurrent(3),
    "Gemm": _gemm,
    "GemmFastGelu": _product,
    "LSTM": _recurrent(4),
    "MatMul": _product,
    "MatMulInteger": _product,
    "MatMulIntegerToFloat": _product,
    "MatMulNBits": _blockwise_product,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _projected_attention,
    "QGemm": _gemm,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _product,
    "RNN": _recurrent(1),
    "TransposeMatMul": _product,
}
"""How each operator that multiplies and sums up is counted."""

_FREE_OF_ONNX: Final = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast
    CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant
    ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg NonMaxSuppression
    NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow
    QuantizeLinear RMSNormalization RandomNormal RandomNormalLike RandomUniform RandomUniformLike
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence
    RoiAlign RotaryEmbedding Round Scatter ScatterElements ScatterND Selu SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split SplitToSequence
    Sqrt Squeeze StringConcat StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh
    TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze
    Upsample Where Xor
"""
_FREE_OF_MICROSOFT: Final = """
    BiasAdd BiasGelu BiasSoftmax BiasSplitGelu FastGelu QLinearAdd QLinearAveragePool
    QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearSigmoid
    QLinearSoftmax QuickGelu SimplifiedLayerNormalization SkipLayerNormalization
    SkipSimplifiedLayerNormalization
"""
FREE: Final = frozenset((_FREE_OF_ONNX + _FREE_OF_MICROSOFT).split())
"""Operators whose cost counts as nothing: they move, compare, convert, pool, normalise, or work
element by element."""
