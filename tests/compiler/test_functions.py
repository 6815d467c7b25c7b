"""Functions of one tensor become one table, whatever exporters write; products become layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float

from edged.compiler import CompiledModel, Techniques, compile_model
from edged.npu import DType, Layer, Op, ProgramImage

ALL = Techniques()
RNG = np.random.default_rng(20)
WEIGHTS = (RNG.standard_normal((8, 3, 3, 3)) * 0.2).astype(np.float32)
SLOPES = np.linspace(-0.3, 0.8, 8, dtype=np.float32).reshape(8, 1, 1)
NUMBERS = {
    "one": 1.0, "two": 2.0, "half": 0.5, "three": 3.0, "six": 6.0, "zero": 0.0, "tenth": 0.1,
    "sixth": 1 / 6, "root2": 2**0.5, "rho": (2 / np.pi) ** 0.5, "cubic": 0.044715,
}  # fmt: skip
CONSTANTS: Arrays = {name: np.array(number, np.float32) for name, number in NUMBERS.items()} | {
    "w": WEIGHTS,
    "v": (RNG.standard_normal((4, 8, 1, 1)) * 0.3).astype(np.float32),
    "slopes": SLOPES,
    "minus": -SLOPES,
    "offsets": np.linspace(-2, 2, 8, dtype=np.float32).reshape(1, 8, 1, 1),
    "wt": (RNG.standard_normal((8, 8, 1, 1)) * 0.4).astype(np.float32),
    "wo": (RNG.standard_normal((1, 8, 1, 1)) * 0.4).astype(np.float32),
    "wu": (RNG.standard_normal((8, 16, 1, 1)) * 0.4).astype(np.float32),
    "wk": (RNG.standard_normal((8, 8)) * 0.4).astype(np.float32),
    "gate": np.array([1, 8, 1, 1]),
    "gamma": np.linspace(0.5, 1.5, 8, dtype=np.float32),
    "beta": np.linspace(-1, 1, 8, dtype=np.float32),
    "mean": np.linspace(-0.5, 0.5, 8, dtype=np.float32),
    "var": np.linspace(0.5, 2, 8, dtype=np.float32),
}

# From "c" to "f": an operator, its inputs, its output, and perhaps its attributes.
SPELLINGS: dict[str, str] = {
    "sigmoid": "Sigmoid c f",
    "hard sigmoid": "HardSigmoid c f",
    "hard-swish": "HardSwish c f",
    "tanh": "Tanh c f",
    "elu": "Elu c f",
    "selu": "Selu c f",
    "celu": "Celu c f",
    "leaky": "LeakyRelu c f",
    "prelu": "PRelu c slopes f",
    "prelu of one": "PRelu c tenth f",
    "softplus": "Softplus c f",
    "softsign": "Softsign c f",
    "mish": "Mish c f",
    "exp": "Exp c f",
    "abs": "Abs c f",
    "erf": "Erf c f",
    "square": "Pow c two f",
    "square as product": "Mul c c f",
    "square root": "Abs c a; Sqrt a f",
    "logarithm": "Abs c a; Add a half b; Log b f",
    "reciprocal": "Abs c a; Add a half b; Reciprocal b f",
    "minimum": "Min c half f",
    "maximum per channel": "Max c offsets f",
    "silu": "Sigmoid c s; Mul c s f",
    "silu the other way": "Sigmoid c s; Mul s c f",
    "silu as quotient": "Neg c n; Exp n e; Add e one d; Div c d f",
    "hard-swish of operators": "Add c three a; Clip a zero six l; Mul c l m; Div m six f",
    "hard-swish, its factor first": "Add c three a; Clip a zero six l; Mul l sixth g; Mul c g f",
    "hard-swish of Keras": "Add c three a; Relu a r; Min r six l; Mul l sixth g; Mul g c f",
    "hard-swish of a hard sigmoid": "HardSigmoid c h; Mul c h f",
    "mish of operators": "Softplus c p; Tanh p t; Mul c t f",
    "mish of logarithms": "Exp c e; Add e one a; Log a p; Tanh p t; Mul c t f",
    "gelu": "Div c root2 d; Erf d e; Add e one a; Mul c a m; Mul m half f",
    "gelu of tanh": "Pow c three q; Mul q cubic k; Add c k a; Mul a rho b; Tanh b t; Add t one g;"
    " Mul c half h; Mul h g f",
    "leaky of a maximum": "Mul c tenth t; Max c t f",
    "leaky of a choice": "Mul c tenth t; Greater c zero g; Where g c t f",
    "prelu of operators": "Relu c r; Neg c n; Relu n q; Mul q minus s; Add r s f",
    "prelu of a minimum": "Relu c r; Min c zero q; Mul q slopes s; Add r s f",
    "elu of operators": "Min c zero q; Exp q u; Sub u one m; Relu c r; Add r m f",
    "norm and silu": "Relu c r; Concat r n; BatchNormalization n gamma beta mean var b;"
    " Sigmoid b s; Mul b s f",
}  # fmt: skip


def nodes_of(text: str) -> list[onnx.NodeProto]:
    made = []
    for line in text.split(";"):
        op, *names = line.split()
        attributes: dict[str, Any] = {"axis": 1} if op == "Concat" else {}
        made.append(node(op, " ".join(names[:-1]), names[-1], **attributes))
    return made


def function_model(text: str, *outputs: str) -> bytes:
    return make_model(
        [node("Conv", "x w", "c", pads=[1] * 4), *nodes_of(text), node("Conv", "f v", "y")],
        {"x": ["N", 3, 6, 6]},
        ["y", *outputs],
        CONSTANTS,
        opset=18,
    )


def images(count: int = 4) -> Arrays:
    return {"x": np.random.default_rng(1).standard_normal((count, 3, 6, 6)).astype(np.float32)}


def ops(compiled: CompiledModel) -> list[Op]:
    return [layer.op for layer in compiled.image.layers]


def tables(image: ProgramImage) -> list[Layer]:
    return [layer for layer in image.layers if layer.op is Op.TABLE]


EVEN = replace(Techniques(), channels=False)


def agrees(
    model: bytes,
    samples: Arrays,
    tolerance: float,
    techniques: Techniques = Techniques(),  # noqa: B008
) -> CompiledModel:
    """*model*, compiled: near the float model, and the emulator the same as the reference."""
    compiled = compile_model(model, calibration=samples, techniques=techniques)
    feeds = {name: array[:1] for name, array in samples.items()}
    wanted, found = run_float(model, feeds), Pipeline(compiled)(feeds)
    fast = Pipeline(compiled, fast=True)(feeds)
    for name, value in wanted.items():
        assert np.array_equal(found[name], fast[name])
        assert np.abs(found[name] - value).max() <= tolerance * np.abs(value).max(), name
    return compiled


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_function_is_one_table_that_is_right_for_every_byte(spelling: str) -> None:
    model = function_model(SPELLINGS[spelling])
    compiled = agrees(model, images(), 0.1, EVEN)
    (table,) = tables(compiled.image)
    others = [op for op in ops(compiled) if op is not Op.TABLE]
    assert others in ([Op.CONV, Op.CONV], [Op.CONV, Op.CONCAT, Op.CONV])
    assert not compiled.report.host
    assert_half_a_step(compiled.image, table, nodes_of(SPELLINGS[spelling]))


def assert_half_a_step(image: ProgramImage, layer: Layer, body: Sequence[onnx.NodeProto]) -> None:
    """Compare *layer* with the float operators *body* at everything that its input can be."""
    source, output = image.tensors[layer.inputs[0]], image.tensors[layer.output]
    bytes_ = np.arange(256, dtype=np.uint8)
    steps = bytes_.view(source.dtype.numpy)
    real = (steps * 2.0**source.exponent).astype(np.float32)
    first = "n" if body[1:2] and body[1].op_type == "Concat" else "c"
    model = make_model(
        body[2:] if first == "n" else body, {first: [256, 8, 1, 1]}, ["f"], CONSTANTS, opset=18
    )
    given = np.broadcast_to(real[:, None, None, None], (256, 8, 1, 1))
    wanted = run_float(model, {first: np.ascontiguousarray(given)})["f"].reshape(256, 8)
    assert layer.table is not None
    found = np.broadcast_to(layer.table, (8, 256)).T * 2.0**output.exponent
    lowest, highest = (
        bound * 2.0**output.exponent for bound in (output.dtype.lowest, output.dtype.highest)
    )
    off = np.abs(found - np.clip(wanted, lowest, highest))
    assert off.max() <= 2.0**output.exponent * (0.5 + 1e-3)


def test_a_value_inside_a_function_that_is_an_output_too_is_kept() -> None:
    model = function_model("Sigmoid c s; Mul c s f", "s")
    compiled = agrees(model, images(), 0.1)
    # Only the host reads the sigmoid: it computes it in float, from what the device convolved.
    assert ops(compiled) == [Op.CONV, Op.TABLE, Op.CONV]
    assert [(row.op, row.where) for row in compiled.report.host] == [("Sigmoid", "epilogue")]


def test_a_value_inside_a_function_that_a_layer_reads_too_is_a_table_of_its_own() -> None:
    model = function_model("Sigmoid c s; Mul c s m; Concat s m n; Conv n wu f")
    compiled = agrees(model, images(), 0.1)
    assert ops(compiled) == [Op.CONV, Op.TABLE, Op.TABLE, Op.CONCAT, Op.CONV, Op.CONV]
    assert {layer.inputs for layer in tables(compiled.image)} == {(1,)}


def test_a_function_stays_on_the_host_in_front_of_the_first_layer_and_behind_the_last() -> None:
    model = make_model(
        [node("Sigmoid", "x", "a"), node("Conv", "a w", "b"), *nodes_of("Sigmoid b s; Mul b s y")],
        {"x": ["N", 3, 6, 6]},
        ["y"],
        CONSTANTS,
    )
    compiled = agrees(model, images(), 0.05)
    assert ops(compiled) == [Op.CONV]
    assert [row.op for row in compiled.report.host] == ["Sigmoid", "Sigmoid", "Mul"]
    assert "not between layers" in compiled.report.host[2].reason


def test_bounds_around_a_function_are_those_of_the_layers_there() -> None:
    model = function_model("Relu c r; Sigmoid r s; Mul r s t; Clip t zero half f")
    compiled = agrees(model, images(), 0.1)
    assert ops(compiled) == [Op.CONV, Op.TABLE, Op.CONV]
    (table,) = tables(compiled.image)
    source, output = (compiled.image.tensors[i] for i in (table.inputs[0], table.output))
    assert source.dtype is output.dtype is DType.U8
    assert (table.lo, table.hi) == (0, 255)  # Scaled, so that they are its whole range.


PRODUCTS = {
    "same": "Conv c wt d; Mul c d f",
    "squeeze and excite": "GlobalAveragePool c p; Conv p wt g; Sigmoid g s; Mul c s f",
    "gate first": "GlobalAveragePool c p; Conv p wt g; HardSigmoid g s; Mul s c f",
    "row as a gate": "GlobalAveragePool c p; Flatten p q; Gemm q wk g; Sigmoid g s;"
    " Reshape s gate r; Mul c r f",
    "spatial": "Conv c wo m; Sigmoid m s; Mul c s f",
    "spatial first": "Conv c wo m; Tanh m s; Mul s c f",
    "bounded": "Conv c wt d; Mul c d m; Relu m f",
    "unsigned": "Conv c wt d; Relu d e; Relu c r; Mul r e f",
}


@pytest.mark.parametrize("form", PRODUCTS)
def test_a_product_of_two_tensors_is_a_layer(form: str) -> None:
    compiled = agrees(function_model(PRODUCTS[form]), images(), 0.1, EVEN)
    (product,) = [layer for layer in compiled.image.layers if layer.op is Op.MUL]
    assert not compiled.report.host
    a, b, output = (compiled.image.tensors[i] for i in (*product.inputs, product.output))
    assert a.shape == output.shape
    assert output.exponent == a.exponent + b.exponent + product.shift
    assert (output.dtype is DType.U8) == (form in ("bounded", "unsigned"))


def test_the_range_before_a_function_matters_as_far_as_the_function_distinguishes_it() -> None:
    """A tenth of the channels of a gate's logits is far out, where a sigmoid is 0 or 1."""
    wide = {"w": WEIGHTS * np.array([0.5] * 7 + [40], np.float32).reshape(8, 1, 1, 1)}
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Sigmoid", "c", "s"),
        node("Conv", "s v", "y"),
    ]
    model = make_model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], CONSTANTS | wide)
    compiled = agrees(model, images(16), 0.05)
    logits, gates = (compiled.image.tensors[i] for i in (1, 2))
    assert logits.exponent <= -3  # From -16 to 16; the largest are beyond 100.
    assert (gates.dtype, gates.exponent) == (DType.U8, -8)


def test_a_tensor_that_something_else_reads_too_keeps_its_range() -> None:
    wide = {"w": WEIGHTS * np.array([0.5] * 7 + [40], np.float32).reshape(8, 1, 1, 1)}
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Sigmoid", "c", "s"),
        node("Concat", "c s", "n", axis=1),
        node("Conv", "n wu", "y"),
    ]
    model = make_model(nodes, {"x": ["N", 3, 6, 6]}, ["y", "c"], CONSTANTS | wide)
    compiled = agrees(model, images(16), 0.05)
    assert compiled.image.tensors[1].exponent >= 0


def test_nothing_is_joined_across_the_features() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        *nodes_of("Sigmoid c s; Mul c s f; Conv f v y"),
    ]
    model = onnx.load_model_from_string(make_model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], CONSTANTS))
    onnx.helper.set_model_props(model, {"edged.features": "s"})
    compiled = compile_model(model.SerializeToString())
    assert ops(compiled) == [Op.CONV]
    assert [row.op for row in compiled.report.host] == ["Sigmoid", "Mul", "Conv"]


def test_functions_of_signals() -> None:
    constants = CONSTANTS | {
        "w": (RNG.standard_normal((8, 3, 5)) * 0.3).astype(np.float32),
        "v": (RNG.standard_normal((4, 8, 3)) * 0.3).astype(np.float32),
        "slopes": SLOPES.reshape(8, 1),
    }
    nodes = [
        node("Conv", "x w", "c", pads=[2, 2]),
        node("BatchNormalization", "c gamma beta mean var", "n"),
        *nodes_of("Sigmoid n s; Mul n s m; PRelu m slopes f"),
        node("Conv", "f v", "y"),
    ]
    model = make_model(nodes, {"x": ["N", 3, 24]}, ["y"], constants)
    samples = {"x": np.random.default_rng(1).standard_normal((4, 3, 24)).astype(np.float32)}
    compiled = agrees(model, samples, 0.05)
    assert ops(compiled) == [Op.CONV, Op.TABLE, Op.CONV]
    assert {row.op for row in compiled.report.host} <= {"Reshape"}


def test_functions_of_images_whose_channels_are_last() -> None:
    """As Keras writes them: a PReLU with slopes [1, 1, C], and a gate [1, 1, 1, C]."""
    constants = CONSTANTS | {"slopes": SLOPES.reshape(1, 1, 8)}
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Transpose", "c", "l", perm=[0, 2, 3, 1]),
        node("PRelu", "l slopes", "p"),
        node("Transpose", "p", "q", perm=[0, 3, 1, 2]),
        node("GlobalAveragePool", "q", "a"),
        node("Conv", "a wt", "b"),
        node("Sigmoid", "b", "g"),
        node("Transpose", "g", "h", perm=[0, 2, 3, 1]),
        node("Mul", "p h", "m"),
        node("Transpose", "m", "f", perm=[0, 3, 1, 2]),
        node("Conv", "f v", "y"),
    ]
    model = make_model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], constants)
    compiled = agrees(model, images(), 0.1)
    assert [op for op in ops(compiled) if op is not Op.COPY] == [
        Op.CONV, Op.TABLE, Op.AVGPOOL, Op.CONV, Op.TABLE, Op.MUL, Op.CONV,
    ]  # fmt: skip
    assert not compiled.report.host
    assert len(tables(compiled.image)[0].table) == 8


def test_a_difference_is_a_sum() -> None:
    model = function_model("Conv c wt d; Sigmoid c s; Sub s d f")
    assert ops(agrees(model, images(), 0.1)) == [Op.CONV, Op.CONV, Op.TABLE, Op.ADD, Op.CONV]
    behind_a_function = function_model("Conv c wt d; Sigmoid d s; Sub c s f")
    compiled = agrees(behind_a_function, images(), 0.1)
    assert ops(compiled) == [Op.CONV, Op.CONV, Op.TABLE, Op.ADD, Op.CONV]
    (table,) = tables(compiled.image)
    assert compiled.image.tensors[table.output].dtype is DType.S8


@pytest.mark.parametrize("also", ["", "c", "r"])
def test_what_the_host_reads_through_a_function_alone_is_as_fine_as_the_function_needs(
    also: str,
) -> None:
    """A mask: logits far beyond -8 to 8, which only their sigmoid tells from each other."""
    wide = {
        "w": WEIGHTS * np.float32(40),
        "flat": np.array([1, -1, 6]),
    }
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Reshape", "c flat", "r"),
        node("Sigmoid", "r", "y"),
    ]
    outputs = [name for name in ("y", also) if name]
    model = make_model(nodes, {"x": ["N", 3, 6, 6]}, outputs, CONSTANTS | wide)
    samples = images(16)
    compiled = compile_model(model, calibration=samples, techniques=replace(ALL, columns=False))
    feeds = {"x": samples["x"][:1]}
    wanted, found = run_float(model, feeds), Pipeline(compiled)(feeds)
    (logits,) = compiled.image.output_tensors
    assert (logits.exponent <= -2) == (not also)
    off = np.abs(found["y"] - wanted["y"]).max()
    assert off < 0.2 or also  # A step of 2 around 0 makes more of it.
    if also:
        assert np.abs(found[also] - wanted[also]).max() <= 0.02 * np.abs(wanted[also]).max()
