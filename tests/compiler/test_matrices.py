"""Products of two computed tensors, as of attention, on the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Arrays, make_model, node
from compiler.test_functions import agrees, ops

from edged.compiler import CompiledModel, compile_model
from edged.compiler._fold import fold
from edged.compiler._import import load_graph
from edged.compiler._partition import partition
from edged.npu import DType, Op, ProgramImage

RNG = np.random.default_rng(31)
TOKENS, WIDTH, HEADS = 12, 16, 4


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return np.asarray(RNG.standard_normal(shape) / np.sqrt(shape[0]), np.float32)


CONSTANTS: Arrays = {
    **{name: weights(WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo")},
    "wqkv": weights(WIDTH, 3 * WIDTH),
    "split": np.array([0, TOKENS, HEADS, WIDTH // HEADS]),
    "split3": np.array([0, TOKENS, 3, HEADS, WIDTH // HEADS]),
    "folded": np.array([-1, TOKENS, WIDTH // HEADS]),
    "folded_back": np.array([-1, HEADS, TOKENS, WIDTH // HEADS]),
    "joined": np.array([0, TOKENS, WIDTH]),
    "scale": np.array((WIDTH // HEADS) ** 0.5, np.float32),
    **{str(number): np.array(number) for number in range(3)},
}


def tokens(count: int = 8, *shape: int) -> Arrays:
    shape = shape or (TOKENS, WIDTH)
    return {"x": np.random.default_rng(3).standard_normal((count, *shape)).astype(np.float32)}


def products(image: ProgramImage) -> list[tuple[int, tuple[int, int, int]]]:
    """Of each product of matrices the groups and the output."""
    return [
        (layer.groups, image.tensors[layer.output].shape)
        for layer in image.layers
        if layer.op is Op.MATMUL
    ]


def wholly_multiplied(compiled: CompiledModel) -> None:
    report = compiled.report
    assert not report.host_macs and compiled.image.macs() == report.macs


def plain(*middle: onnx.NodeProto) -> bytes:
    """x·wq times x·wk, whose shapes the nodes between make fit."""
    nodes = [node("MatMul", "x wq", "q"), node("MatMul", "x wk", "k"), *middle]
    return make_model(nodes, {"x": ["N", TOKENS, WIDTH]}, ["y"], CONSTANTS)


def test_rows_by_the_rows_of_another() -> None:
    """A gram matrix: the second operand is transposed by a copy, the first lies as it has to."""
    model = plain(node("Transpose", "k", "t", perm=[0, 2, 1]), node("MatMul", "q t", "y"))
    compiled = agrees(model, tokens(), 0.06)
    assert products(compiled.image) == [(1, (TOKENS, 1, TOKENS))]
    assert ops(compiled).count(Op.COPY) == 1
    wholly_multiplied(compiled)


def test_columns_by_columns() -> None:
    model = plain(node("Transpose", "q", "t", perm=[0, 2, 1]), node("MatMul", "t k", "y"))
    compiled = agrees(model, tokens(), 0.06)
    assert products(compiled.image) == [(1, (WIDTH, 1, WIDTH))]
    wholly_multiplied(compiled)


def test_what_the_host_has_is_multiplied() -> None:
    """Both operands come from the host, and a layer behind reads the product."""
    model = make_model(
        [
            node("Softmax", "x", "s"),
            node("MatMul", "s x", "p"),
            node("Relu", "p", "r"),
            node("MatMul", "r x", "y"),
        ],
        {"x": ["N", 3, 10, 10]},
        ["y"],
    )
    compiled = agrees(model, tokens(8, 3, 10, 10), 0.06)
    assert products(compiled.image) == [(3, (10, 1, 30))] * 2
    assert {row.op for row in compiled.report.host} == {"Softmax"}


def heads(name: str, order: list[int]) -> list[onnx.NodeProto]:
    return [
        node("MatMul", f"x w{name}", f"{name}m"),
        node("Reshape", f"{name}m split", f"{name}s"),
        node("Transpose", f"{name}s", f"{name}h", perm=order),
    ]


JOINED = [
    node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
    node("Reshape", "ot joined", "oj"),
    node("MatMul", "oj wo", "y"),
]
SEPARATE = [
    *heads("q", [0, 2, 1, 3]),
    *heads("k", [0, 2, 3, 1]),
    *heads("v", [0, 2, 1, 3]),
    node("MatMul", "qh kh", "s"),
    node("Div", "s scale", "d"),
    node("Softmax", "d", "p", axis=-1),
    node("MatMul", "p vh", "o"),
    *JOINED,
]
PACKED = [
    node("MatMul", "x wqkv", "m"),
    node("Reshape", "m split3", "r"),
    node("Transpose", "r", "t", perm=[2, 0, 3, 1, 4]),
    *(node("Gather", f"t {at}", name, axis=0) for at, name in enumerate("qkv")),
    node("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
    node("Div", "q scale", "d"),
    node("MatMul", "d kt", "s"),
    node("Softmax", "s", "p", axis=-1),
    node("MatMul", "p v", "o"),
    *JOINED,
]
FOLDED = [
    *heads("q", [0, 2, 1, 3]),
    *heads("k", [0, 2, 1, 3]),
    *heads("v", [0, 2, 1, 3]),
    *(node("Reshape", f"{name}h folded", f"{name}f") for name in "qkv"),
    node("Transpose", "kf", "kt", perm=[0, 2, 1]),
    node("MatMul", "qf kt", "s"),
    node("Div", "s scale", "d"),
    node("Softmax", "d", "p", axis=-1),
    node("MatMul", "p vf", "of"),
    node("Reshape", "of folded_back", "o"),
    *JOINED,
]


@pytest.mark.parametrize(
    ("nodes", "copies"),
    [(SEPARATE, 2), (PACKED, 6), (FOLDED, 2)],
    ids=["separate", "packed", "folded"],
)
def test_attention_of_several_heads(nodes: list[onnx.NodeProto], copies: int) -> None:
    """Softmax is the host's. Copied are the keys, transposed, and what the softmax gives."""
    model = make_model(nodes, {"x": ["N", TOKENS, WIDTH]}, ["y"], CONSTANTS)
    compiled = agrees(model, tokens(), 0.08)
    head = WIDTH // HEADS
    assert products(compiled.image) == [
        (HEADS, (TOKENS, 1, HEADS * TOKENS)),
        (HEADS, (TOKENS, 1, HEADS * head)),
    ]
    assert ops(compiled).count(Op.COPY) == copies
    wholly_multiplied(compiled)


@pytest.mark.parametrize(
    ("depth", "dtypes"),
    [
        (258, (DType.U8, DType.U8)),
        (259, (DType.U8, DType.S8)),
        (515, (DType.S8, DType.S8)),
        (1023, (DType.S8, DType.S8)),
    ],
)
def test_a_deep_product_is_of_signed_operands(depth: int, dtypes: tuple[DType, DType]) -> None:
    """Neither operand is below zero; u8 of both would be too much for the accumulator."""
    nodes = [
        node("Softmax", "x", "p", axis=-1),
        node("Softmax", "z", "q", axis=-1),
        node("MatMul", "p q", "y"),
    ]
    sizes = {"x": (1, 4, depth), "z": (1, depth, 6)}
    rng = np.random.default_rng(5)
    samples = {n: rng.standard_normal((4, *s)).astype(np.float32) for n, s in sizes.items()}
    model = make_model(nodes, {name: ["N", *size] for name, size in sizes.items()}, ["y"])
    compiled = agrees(model, samples, 0.1)
    (layer,) = [layer for layer in compiled.image.layers if layer.op is Op.MATMUL]
    assert tuple(compiled.image.tensors[index].dtype for index in layer.inputs) == dtypes


def test_a_product_that_is_too_deep_is_the_hosts() -> None:
    constants = {"w": weights(8, 4, 1, 1)}
    nodes = [
        node("Conv", "x w", "c"),
        node("Transpose", "c", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "c t", "y"),
    ]
    model = make_model(nodes, {"x": ["N", 4, 2, 1024]}, ["y"], constants)
    (row,) = [row for row in compile_model(model).report.host if row.macs]
    assert row.op == "MatMul" and "sums up 1024 products" in row.reason
    assert row.macs == 8 * 2 * 1024 * 2


def test_broadcast_matrices_are_the_hosts() -> None:
    constants = {"w": weights(8, 4, 1, 1), "v": weights(1, 4, 1, 1)}
    nodes = [node("Conv", "x w", "c"), node("Conv", "x v", "d"), node("MatMul", "c d", "y")]
    model = make_model(nodes, {"x": ["N", 4, 6, 6]}, ["y"], constants)
    (row,) = [row for row in compile_model(model).report.host if row.op == "MatMul"]
    assert "[1, 8, 6, 6] and [1, 1, 6, 6]" in row.reason


def test_a_factor_of_a_product_that_others_read_stays_behind_it() -> None:
    middle = [
        node("Transpose", "k", "t", perm=[0, 2, 1]),
        node("MatMul", "q t", "p"),
        node("Mul", "scale p", "m"),
        node("Add", "m p", "y"),
    ]
    compiled = agrees(plain(*middle), tokens(), 0.08)
    assert len(products(compiled.image)) == 1
    alone = agrees(plain(*middle[:2], node("Mul", "scale p", "y")), tokens(), 0.06)
    wholly_multiplied(alone)
    assert sorted(ops(alone)) == sorted([Op.CONV, Op.CONV, Op.COPY, Op.MATMUL])


def test_a_huge_product_is_the_hosts() -> None:
    constants = {"w": weights(8, 1, 1, 1)}
    nodes = [
        node("Conv", "x w", "c"),
        node("Transpose", "c", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "t c", "m"),
        node("ReduceMax", "m", "y"),
    ]
    graph = fold(load_graph(make_model(nodes, {"x": ["N", 1, 2, 1500]}, ["y"], constants)))
    (row,) = [row for row in partition(graph).host if row.node.op == "MatMul"]
    assert "18000000 elements" in row.reason
