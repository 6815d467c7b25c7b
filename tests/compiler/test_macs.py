"""What operators cost, against numbers that were worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from compiler.pipeline import node
from onnx import TensorProto, helper

from edged.compiler import compile_model
from edged.compiler._graph import Graph, Node, Value
from edged.compiler._macs import COUNTED, FREE, macs


def counted(
    op: str, inputs: list[tuple[int, ...] | None], output: tuple[int, ...], **attributes: Any
) -> int | None:
    """The count for an operator whose inputs have these shapes; None leaves one out."""
    names = ["" if shape is None else f"x{place}" for place, shape in enumerate(inputs)]
    made = helper.make_node(op, names, ["y"], **attributes)
    values = {
        name: Value(np.dtype(np.float32), shape)
        for name, shape in zip(names, inputs, strict=True)
        if shape is not None
    }
    values["y"] = Value(np.dtype(np.float32), output)
    read = Node(
        op,
        "",
        tuple(names),
        ("y",),
        {a.name: helper.get_attribute_value(a) for a in made.attribute},
    )
    return macs(Graph((), ("y",), (read,), {}, values, 23, 10), read)


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "wanted"),
    [
        # 8·10·10 results of 3·3·3 products each.
        ("Conv", [(1, 3, 12, 12), (8, 3, 3, 3)], (1, 8, 10, 10), {}, 8 * 100 * 27),
        ("Conv", [(1, 6, 12), (6, 1, 3)], (1, 6, 10), {"group": 6}, 6 * 10 * 3),
        ("QLinearConv", [(1, 3, 4, 4), (), (), (8, 3, 1, 1)], (1, 8, 4, 4), {}, 8 * 16 * 3),
        ("FusedConv", [(1, 3, 4, 4), (8, 3, 1, 1)], (1, 8, 4, 4), {}, 8 * 16 * 3),
        # Each of the 4·5·5 values goes into 2·2 places of each of 6 channels.
        ("ConvTranspose", [(1, 4, 5, 5), (4, 6, 2, 2)], (1, 6, 10, 10), {}, 100 * 6 * 4),
        ("ConvTranspose", [(1, 4, 5, 5), (4, 1, 2, 2)], (1, 4, 10, 10), {"group": 4}, 400),
        ("Gemm", [(7, 5), (5, 3)], (7, 3), {}, 7 * 5 * 3),
        ("Gemm", [(5, 7), (3, 5)], (7, 3), {"transA": 1, "transB": 1}, 7 * 5 * 3),
        # 197 rows by weights, and activations by activations in 3 heads.
        ("MatMul", [(1, 197, 192), (192, 576)], (1, 197, 576), {}, 197 * 192 * 576),
        ("MatMul", [(1, 3, 197, 64), (1, 3, 64, 197)], (1, 3, 197, 197), {}, 3 * 197 * 64 * 197),
        ("MatMul", [(5,), (5,)], (), {}, 5),
        ("MatMul", [(2, 1, 4, 5), (3, 5, 6)], (2, 3, 4, 6), {}, 2 * 3 * 4 * 5 * 6),
        ("FusedMatMul", [(1, 64, 9), (1, 64, 7)], (1, 9, 7), {"transA": 1}, 9 * 64 * 7),
        ("MatMulNBits", [(1, 9, 64), (7, 2, 16)], (1, 9, 7), {"K": 64, "N": 7}, 9 * 64 * 7),
        ("Einsum", [(1, 16, 4, 4), (16, 8)], (1, 8, 4, 4), {"equation": "nchw,ck->nkhw"}, 2048),
        ("Einsum", [(2, 4, 5), (2, 5, 6)], (2, 4, 6), {"equation": "... i j, ...jk -> ...ik"}, 240),
        ("Einsum", [(3, 4), (4, 5), (5, 6)], (3, 6), {"equation": "ab,bc,cd"}, 60 + 90),
        ("Einsum", [(3, 4)], (4, 3), {"equation": "ab->ba"}, 0),
        # 9 steps, two directions: 4 gates of 16 cells, of 8 inputs and 16 states.
        ("LSTM", [(9, 1, 8), (2, 64, 8), (2, 64, 16)], (9, 2, 1, 16), {}, 2 * 9 * 64 * 24),
        ("GRU", [(9, 1, 8), (1, 48, 8), (1, 48, 16)], (9, 1, 1, 16), {}, 9 * 48 * 24),
        ("RNN", [(1, 9, 8), (1, 16, 8), (1, 16, 16)], (1, 9, 1, 16), {"layout": 1}, 9 * 16 * 24),
        # Q·Kᵀ: 3 heads of 7 by 7 products of 4, and as many again for the sums of V.
        ("Attention", [(1, 3, 7, 4)] * 3, (1, 3, 7, 4), {}, 2 * 3 * 49 * 4),
        (
            "Attention",
            [(1, 7, 12), (1, 5, 4), (1, 5, 4)],
            (1, 7, 12),
            {"q_num_heads": 3, "kv_num_heads": 1},
            2 * 3 * 7 * 5 * 4,
        ),
        (
            "Attention",
            [(1, 3, 1, 4), (1, 3, 1, 4), (1, 3, 1, 4), None, (1, 3, 9, 4), (1, 3, 9, 4)],
            (1, 3, 1, 4),
            {},
            2 * 3 * 10 * 4,
        ),
        # com.microsoft: projections of 7 rows by 12 to 36, and the attention.
        ("Attention", [(1, 7, 12), (12, 36), (36,)], (1, 7, 12), {"num_heads": 3}, 3024 + 1176),
        ("MultiHeadAttention", [(1, 7, 12), (1, 5, 12), (1, 5, 12)], (1, 7, 12), {}, 840),
        ("AffineGrid", [(1, 2, 3), (4,)], (1, 5, 6, 2), {}, 5 * 6 * 2 * 3),
        ("CausalConvWithState", [(1, 6, 10), (6, 1, 4)], (1, 6, 10), {}, 6 * 10 * 4),
        ("Mul", [(1, 8), (1, 8)], (1, 8), {}, 0),
        ("DFT", [(1, 64, 1)], (1, 64, 2), {}, None),
        ("SomethingNew", [(1, 8)], (1, 8), {}, None),
    ],
)
def test_counts(
    op: str,
    inputs: list[tuple[int, ...] | None],
    output: tuple[int, ...],
    attributes: dict[str, Any],
    wanted: int | None,
) -> None:
    assert counted(op, inputs, output, **attributes) == wanted


def test_without_a_shape_the_cost_is_not_known() -> None:
    names = ("x", "w")
    made = Node("MatMul", "", names, ("y",), {})
    values = dict.fromkeys((*names, "y"), Value(np.dtype(np.float32), None))
    assert macs(Graph((), ("y",), (made,), {}, values, 23, 10), made) is None


@pytest.mark.parametrize(("inner", "wanted"), [("Relu", 0), ("MatMul", None)])
def test_a_branch_costs_nothing_if_nothing_in_it_does(inner: str, wanted: int | None) -> None:
    def body() -> onnx.GraphProto:
        inputs = ["x"] if inner == "Relu" else ["x", "x"]
        out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node(inner, inputs, ["o"])], "body", [], [out])

    found = counted("If", [()], (1,), then_branch=body(), else_branch=body())
    assert found == wanted


def test_every_operator_of_onnx_is_counted_free_or_known_not_to_be_known() -> None:
    """A new operator of ONNX is looked at by a person before it is said to cost nothing."""
    standard = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    assert standard - FREE - COUNTED.keys() <= {
        *("DFT", "Det", "STFT"),  # as the algorithm has it
        *("If", "Loop", "Scan", "SequenceMap"),  # by what is in them
        *("ImageDecoder", "LinearAttention"),
        *("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"),
    }
    assert not FREE & COUNTED.keys()


def test_the_report_counts_rows_of_the_host() -> None:
    """A convolution into tokens, a layer on each of them, and a product of tokens by the host."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", "x w", "c", strides=[2, 2]),
        node("Reshape", "c shape", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1]),
        node("MatMul", "t v", "m"),
        node("Einsum", "m m", "y", equation="bik,bjk->bij"),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(rng.normal(size=(6, 3, 2, 2)).astype(np.float32), "w"),
            onnx.numpy_helper.from_array(np.array([0, 6, 16], np.int64), "shape"),
            onnx.numpy_helper.from_array(rng.normal(size=(6, 10)).astype(np.float32), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    report = compile_model(model.SerializeToString()).report
    assert report.macs == 16 * 6 * 12 + 16 * 6 * 10
    assert [row.macs for row in report.host if row.macs] == [16 * 10 * 16]
    assert report.host_macs == 16 * 10 * 16
