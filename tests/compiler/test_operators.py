"""Each operator of the device computes what the float model does, to half a step of its output.

Inputs and weights are small multiples of powers of two, which quantise to themselves: what is left
is the one rounding of the result, so the bound is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Pipeline, make_model, node, run_float
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.compiler import CompiledModel, compile_model
from edged.npu import Op

Floats = npt.NDArray[np.float32]
_ROUNDING = 0.5 + 2.0**-8
"""Steps of the output; the second part is for the float model's own rounding."""


def exact(rng: np.random.Generator, shape: tuple[int, ...], lowest: int = -127) -> Floats:
    """Multiples of 2^-6 that use up the range of s8, or of u8 from 0 on."""
    values = rng.integers(lowest, 128 if lowest < 0 else 256, shape).astype(np.float32)
    values.reshape(-1)[0] = 127 if lowest < 0 else 255
    return values / 64


def check(model: bytes, samples: dict[str, Floats], steps: float = _ROUNDING) -> CompiledModel:
    """Compile *model* and compare all its outputs on all *samples* with the float model's."""
    compiled = compile_model(model, calibration=samples)
    run = Pipeline(compiled)
    leaving = compiled.image.chosen(compiled.image.entries[-1].outputs)
    step = max(2.0**tensor.exponent for tensor in leaving)
    for index in range(len(next(iter(samples.values())))):
        feeds = {name: array[index : index + 1] for name, array in samples.items()}
        wanted, found = run_float(model, feeds), run(feeds)
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert found[name].shape == value.shape
            assert found[name].dtype == value.dtype
            assert np.abs(found[name] - value).max() <= steps * step
    return compiled


def ops(compiled: CompiledModel) -> list[Op]:
    return [layer.op for layer in compiled.image.layers]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c_in = groups * draw(st.integers(1, 4))
    c_out = groups * draw(st.integers(1, 4))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    pads = [
        draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel * 2, dilation * 2, strict=True)
    ]
    height, width = draw(st.integers(7, 9)), draw(st.integers(7, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    model = make_model(
        [
            node(
                "Conv",
                "x w b",
                "y",
                group=groups,
                kernel_shape=kernel,
                strides=stride,
                dilations=dilation,
                pads=pads,
            )
        ],
        {"x": ["N", c_in, height, width]},
        ["y"],
        {"w": exact(rng, (c_out, c_in // groups, *kernel)), "b": exact(rng, (c_out,))},
    )
    samples = {"x": exact(rng, (2, c_in, height, width), draw(st.sampled_from([-127, 0])))}
    compiled = check(model, samples)
    assert ops(compiled) == [Op.CONV]
    assert compiled.report.host == ()


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_automatic_padding(auto_pad: str, stride: int) -> None:
    rng = np.random.default_rng(1)
    model = make_model(
        [node("Conv", "x w", "y", auto_pad=auto_pad, strides=[stride] * 2)],
        {"x": [1, 2, 8, 7]},
        ["y"],
        {"w": exact(rng, (3, 2, 4, 3))},
    )
    check(model, {"x": exact(rng, (1, 2, 8, 7))})


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}], ids=["plain", "B'", "factors"]
)
@pytest.mark.parametrize("way", ["row", "flatten", "channels last"])
def test_gemm_of_a_row_or_a_whole_plane(attributes: dict[str, Any], way: str) -> None:
    rng = np.random.default_rng(2)
    nodes: list[onnx.NodeProto] = [node("Relu", "x", "r")]
    shape: list[int | str] = ["N", 24]
    if way != "row":
        shape = ["N", 4, 3, 2]
        if way == "channels last":
            nodes.append(node("Transpose", "r", "t", perm=[0, 2, 3, 1]))
        nodes.append(node("Flatten", nodes[-1].output[0], "f"))
    nodes.append(node("Gemm", f"{nodes[-1].output[0]} w b", "y", **attributes))
    weights = exact(rng, (24, 5))
    constants = {"w": weights.T.copy() if "transB" in attributes else weights, "b": weights[0]}
    compiled = check(
        make_model(nodes, {"x": shape}, ["y"], constants),
        {"x": exact(rng, (3, *(int(n) for n in shape[1:])))},
    )
    assert ops(compiled) == [Op.RESCALE, Op.CONV]
    assert compiled.report.host == ()


def test_matmul_with_a_bias_behind_it() -> None:
    rng = np.random.default_rng(3)
    model = make_model(
        [node("MatMul", "x w", "m"), node("Add", "b m", "a"), node("Relu", "a", "y")],
        {"x": ["N", 20]},
        ["y"],
        {"w": exact(rng, (20, 6)), "b": exact(rng, (6,))},
    )
    compiled = check(model, {"x": exact(rng, (2, 20))})
    assert ops(compiled) == [Op.CONV]
    assert compiled.image.layers[0].lo == 0


@pytest.mark.parametrize("lowest", [-127, 0])
def test_addition_of_tensors_with_different_exponents(lowest: int) -> None:
    rng = np.random.default_rng(4)
    model = make_model([node("Add", "a b", "y")], {"a": ["N", 3, 5, 4], "b": ["N", 3, 5, 4]}, ["y"])
    a, b = (exact(rng, (2, 3, 5, 4), lowest) for _ in range(2))
    assert ops(check(model, {"a": a, "b": b / 8})) == [Op.ADD]


def test_addition_of_operands_too_far_apart_for_any_shift() -> None:
    rng = np.random.default_rng(5)
    model = make_model([node("Add", "a b", "y")], {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, ["y"])
    a, b = (exact(rng, (1, 2, 3, 4)) for _ in range(2))
    check(model, {"a": a * 2.0**20, "b": b * 2.0**-20})


@pytest.mark.parametrize(("lo", "hi"), [(0.0, None), (0.0, 1.0), (-0.5, 0.75), (None, 1.5)])
@pytest.mark.parametrize("alone", [True, False])
def test_relu_and_clip_are_bounds(lo: float | None, hi: float | None, alone: bool) -> None:
    rng = np.random.default_rng(6)
    constants: dict[str, Floats] = {"w": exact(rng, (3, 3, 1, 1))}
    names = ["x" if alone else "c", "", ""]
    for position, bound in enumerate((lo, hi), 1):
        if bound is not None:
            names[position] = f"bound{position}"
            constants[names[position]] = np.array(bound, np.float32)
    clip = onnx.helper.make_node("Clip", names, ["y"])
    nodes = [clip] if alone else [node("Conv", "x w", "c"), clip]
    model = make_model(nodes, {"x": ["N", 3, 4, 4]}, ["y"], constants)
    compiled = check(model, {"x": exact(rng, (2, 3, 4, 4))})
    assert ops(compiled) == [Op.RESCALE if alone else Op.CONV]


def test_relu6_is_an_upper_bound_in_steps_of_the_output() -> None:
    rng = np.random.default_rng(7)
    model = make_model(
        [node("Conv", "x w", "c"), node("Clip", "c zero six", "y")],
        {"x": ["N", 4, 6, 6]},
        ["y"],
        {
            "w": exact(rng, (4, 4, 3, 3)),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
        },
    )
    image = check(model, {"x": exact(rng, (2, 4, 6, 6))}).image
    (output,) = image.output_tensors
    assert (image.layers[0].lo, image.layers[0].hi) == (0, 6 * 2**-output.exponent)


@pytest.mark.parametrize(
    ("op", "attributes", "kind"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, Op.MAXPOOL),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, Op.MAXPOOL),
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, Op.MAXPOOL),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}, Op.MAXPOOL),
        ("GlobalMaxPool", {}, Op.MAXPOOL),
        ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 1]}, Op.AVGPOOL),
        (
            "AveragePool",
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
            Op.AVGPOOL,
        ),
        ("GlobalAveragePool", {}, Op.AVGPOOL),
        ("ReduceMean", {"axes": [2, 3], "keepdims": 0}, Op.AVGPOOL),
        ("ReduceMean", {"axes": [-1, -2], "keepdims": 1}, Op.AVGPOOL),
    ],
)
@pytest.mark.parametrize("lowest", [-127, 0])
def test_pools(op: str, attributes: dict[str, Any], kind: Op, lowest: int) -> None:
    rng = np.random.default_rng(8)
    model = make_model([node(op, "x", "y", **attributes)], {"x": ["N", 5, 8, 7]}, ["y"])
    compiled = check(model, {"x": exact(rng, (2, 5, 8, 7), lowest)})
    assert ops(compiled) == [kind]
    assert compiled.report.host == ()


def test_mean_over_an_image_with_channels_last() -> None:
    rng = np.random.default_rng(9)
    model = make_model(
        [
            node("Conv", "x w", "c"),
            node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
            node("ReduceMean", "t", "y", axes=[1, 2], keepdims=1),
        ],
        {"x": ["N", 3, 5, 4]},
        ["y"],
        {"w": exact(rng, (3, 3, 1, 1))},
    )
    compiled = compile_model(model, calibration={"x": exact(rng, (1, 3, 5, 4))})
    assert ops(compiled) == [Op.CONV, Op.AVGPOOL]
    assert compiled.report.host == ()


@pytest.mark.parametrize("shape", [(3, 4), ()], ids=["image", "row"])
def test_concat_of_different_exponents(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(10)
    op = "Conv" if shape else "MatMul"
    eyes = {f"eye{n}": np.eye(n, dtype=np.float32) for n in (3, 5, 11)}
    model = make_model(
        [
            node(op, "a eye3", "d"),
            node(op, "b eye5", "e"),
            node("Concat", "d e d", "c", axis=1),
            node(op, "c eye11", "y"),
        ],
        {"a": [1, 3, *shape], "b": [1, 5, *shape]},
        ["y"],
        {name: eye[:, :, None, None] if shape else eye for name, eye in eyes.items()},
    )
    a, b = exact(rng, (1, 3, *shape)), exact(rng, (1, 5, *shape), 0) / 8
    # The last two layers round.
    compiled = check(model, {"a": a, "b": b}, steps=2 * _ROUNDING)
    assert ops(compiled) == [Op.CONV, Op.CONV, Op.CONCAT, Op.CONV]


def batch_norm(rng: np.random.Generator, channels: int) -> dict[str, Floats]:
    """Parameters that are powers of two where it counts: folding them stays exact."""
    return {
        "gamma": 2.0 ** rng.integers(-2, 2, channels).astype(np.float32),
        "beta": exact(rng, (channels,)),
        "mean": np.zeros(channels, np.float32),
        "var": np.ones(channels, np.float32),
    }


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        (["Conv x w c", "BatchNormalization c gamma beta mean var n", "Relu n y"], [Op.CONV]),
        (["Conv x w c", "Mul c scale m", "Add offset m y"], [Op.CONV]),
        (["Conv x w c", "Sub c offset m", "Div m scale y"], [Op.CONV]),
        (["Identity x i", "Dropout i d", "Conv d w y"], [Op.CONV]),
        (["Pad x pads p", "Conv p w y"], [Op.CONV]),
        (["Relu x r", "Pad r pads p", "MaxPool p y"], [Op.RESCALE, Op.MAXPOOL]),
        (
            ["Conv x w c", "MaxPool c p", "BatchNormalization p gamma beta mean var n", "Relu n y"],
            [Op.CONV, Op.MAXPOOL, Op.CONV],
        ),
        (["Conv x w c", "Add c x a", "Relu a y"], [Op.CONV, Op.ADD]),
        (
            ["Conv x w c", "Relu c r", "Concat c r j", "MaxPool j y"],
            [Op.CONV, Op.RESCALE, Op.CONCAT, Op.MAXPOOL],
        ),
    ],
    ids=lambda value: " ".join(n.split()[0] for n in value) if isinstance(value[0], str) else "",
)
def test_what_is_folded_takes_no_layer_of_its_own(nodes: list[str], kinds: list[Op]) -> None:
    rng = np.random.default_rng(11)
    constants = batch_norm(rng, 4) | {
        "w": exact(rng, (4, 4, 3, 3) if "Pad" in nodes[0] else (4, 4, 1, 1)),
        "scale": 2.0 ** rng.integers(-2, 2, (4, 1, 1)).astype(np.float32),
        "offset": exact(rng, (1, 4, 1, 1)),
    }
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    made = []
    for text in nodes:
        op, *names = text.split()
        window = {"MaxPool": {"kernel_shape": [3, 3]}, "Concat": {"axis": 1}}.get(op, {})
        made.append(node(op, " ".join(names[:-1]), names[-1], **window))
    model = make_model(made, {"x": ["N", 4, 6, 6]}, ["y"], {**constants, "pads": pads})
    compiled = compile_model(model, calibration={"x": exact(rng, (2, 4, 6, 6))})
    assert ops(compiled) == kinds
    assert compiled.report.host == ()
    feeds = {"x": exact(rng, (1, 4, 6, 6))}
    wanted, found = run_float(model, feeds)["y"], Pipeline(compiled)(feeds)["y"]
    assert noise(found, wanted) < 0.03


def noise(found: Floats, wanted: Floats) -> float:
    """Root of the mean squared error over that of the mean square."""
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


Grow = Callable[[np.random.Generator, str, str, int], tuple[list[onnx.NodeProto], dict[str, Any]]]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_stay_close_to_float(seed: int) -> None:
    """Residual networks with every operator, random weights and geometry."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, npt.NDArray[Any]] = {}
    channels = 8

    def conv(source: str, target: str, groups: int, size: int) -> str:
        fan_in = channels // groups * size * size
        weights = rng.standard_normal((channels, channels // groups, size, size)) / fan_in**0.5
        constants[f"{target}.w"] = weights.astype(np.float32)
        constants[f"{target}.b"] = (0.1 * rng.standard_normal(channels)).astype(np.float32)
        pads = [size // 2] * 4
        inputs = f"{source} {target}.w {target}.b"
        nodes.append(node("Conv", inputs, target, group=groups, pads=pads))
        return target

    value = "x"
    for block in range(4):
        a = conv(value, f"a{block}", int(rng.choice([1, 2, channels])), int(rng.choice([1, 3])))
        nodes.append(node("Relu", a, f"r{block}"))
        b = conv(f"r{block}", f"b{block}", 1, 1)
        match rng.integers(4):
            case 0:
                nodes.append(node("Add", f"{b} {value}", f"v{block}"))
            case 1:
                nodes.append(node("Concat", f"{b} {value}", f"v{block}", axis=1))
                channels *= 2
            case 2:
                nodes.append(
                    node("MaxPool", b, f"v{block}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
                )
            case _:
                nodes.append(node("AveragePool", b, f"v{block}", kernel_shape=[2, 2]))
        value = f"v{block}"
    nodes.append(node("GlobalAveragePool", value, "g"))
    nodes.append(node("Flatten", "g", "f"))
    constants["head"] = rng.standard_normal((channels, 10)).astype(np.float32)
    nodes.append(node("MatMul", "f head", "logits"))
    nodes.append(node("Softmax", "logits", "y"))
    model = make_model(nodes, {"x": ["N", 8, 12, 12]}, ["y", "logits"], constants)

    samples = rng.standard_normal((8, 8, 12, 12)).astype(np.float32)
    compiled = compile_model(model, calibration={"x": samples})
    assert [row.op for row in compiled.report.host] == ["Softmax"]
    run = Pipeline(compiled)
    held_out = [rng.standard_normal((1, 8, 12, 12)).astype(np.float32) for _ in range(4)]
    found = np.concatenate([run({"x": x})["logits"] for x in held_out])
    wanted = np.concatenate([run_float(model, {"x": x})["logits"] for x in held_out])
    assert noise(found, wanted) < 0.15
