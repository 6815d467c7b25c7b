"""Inputs that are made up for a model without samples: as near to real ones as its graph tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Arrays, Pipeline, make_model, node, run_float
from onnx import TensorProto

from edged._madeup import Hint, Step, Wanted, hints, made_up, to_scale
from edged.bundle import FileName, pack, read_arrays, verify_bundle
from edged.compiler import compile_model
from edged.compiler._calibrate import synthetic_samples
from edged.compiler._fold import fold
from edged.compiler._import import load_graph
from edged.compiler._techniques import Techniques

Floats = npt.NDArray[np.float32]


def drawn(model: bytes) -> Arrays:
    """What the compiler makes up for *model*."""
    return dict(synthetic_samples(fold(load_graph(model)), Techniques()))


def packed(model: bytes, folder: Path) -> Arrays:
    """What packing makes up for *model*."""
    (folder / "m.onnx").write_bytes(model)
    pack(folder / "m.onnx", name="m", version="1.0.0", output=folder / "m.edgemodel")
    arrays = read_arrays(
        verify_bundle(folder / "m.edgemodel", folder / "v").folder / FileName.SELF_TEST
    )
    return {name[3:]: array for name, array in arrays.items() if name.startswith("in:")}


def weights(*shape: int) -> Floats:
    scale = np.prod(shape[1:]) ** 0.5
    return (np.random.default_rng(0).standard_normal(shape) / scale).astype(np.float32)


def declared(model: bytes) -> bytes:
    """*model* with the shape of its output, which packing wants to know."""
    proto = onnx.load_from_string(model)
    shape = onnx.shape_inference.infer_shapes(proto).graph.output[0]
    proto.graph.output[0].CopyFrom(shape)
    return bytes(proto.SerializeToString())


def tokens(rows: int, *between: onnx.NodeProto, index: str = "ids", dtype: int) -> bytes:
    """Ids that look up *rows* rows, and a dense layer on their mean."""
    nodes = [
        *between,
        node("Gather", f"table {index}", "e", axis=0),
        node("ReduceMean", "e", "m", axes=[1], keepdims=0),
        node("Gemm", "m w", "y"),
    ]
    constants = {
        "table": weights(rows, 8) * 3,
        "w": weights(8, 4),
        "flat": np.array([1, -1]),
    }
    return declared(make_model(nodes, {"ids": [1, 12]}, ["y"], constants, dtype=dtype))


CAST = node("Cast", "ids", "c", to=TensorProto.INT64)
FLAT = node("Reshape", "c flat", "f")


@pytest.mark.parametrize("rows", [2, 60, 5000])
@pytest.mark.parametrize(
    ("between", "index", "dtype"),
    [
        ((), "ids", TensorProto.INT64),
        ((CAST, FLAT), "f", TensorProto.INT32),
        ((CAST,), "c", TensorProto.UINT8),
    ],
    ids=["plain", "through others", "bytes"],
)
def test_ids_are_drawn_within_the_table_that_they_index(
    rows: int, between: tuple[onnx.NodeProto, ...], index: str, dtype: int, tmp_path: Path
) -> None:
    model = tokens(rows, *between, index=index, dtype=dtype)
    most = min(rows, 255) if dtype == TensorProto.UINT8 else rows
    for found in (drawn(model)["ids"], packed(model, tmp_path)["ids"]):
        assert found.min() >= 0 and found.max() < most
        assert len(np.unique(found)) > min(most, 20) // 2
    compiled = compile_model(model)
    feeds = {"ids": drawn(model)["ids"][:1]}
    wanted = run_float(model, feeds)["y"]
    np.testing.assert_allclose(Pipeline(compiled)(feeds)["y"], wanted, atol=0.06)


def test_the_smallest_of_several_tables_counts() -> None:
    steps = [
        Step("Gather", ("large", "ids"), ("a",), {}),
        Step("Transpose", ("ids",), ("t",), {}),
        Step("Gather", ("small", "t"), ("b",), {"axis": 1}),
    ]
    wanted = [Wanted("ids", np.dtype(np.int64), (1, 4))]
    found = hints(wanted, steps, {}, {"large": (900, 8), "small": (8, 7)})
    assert found["ids"].rows == 7


def test_integers_that_index_nothing_are_flags_and_masks_are_ones() -> None:
    inputs = [
        Wanted("attention_mask", np.dtype(np.int64), (1, 50)),
        Wanted("flags", np.dtype(np.int32), (1, 50)),
        Wanted("on", np.dtype(np.bool_), (1, 50)),
    ]
    found = made_up(inputs, {}, 2, np.random.default_rng(0))
    assert (found["attention_mask"] == 1).all()
    assert set(np.unique(found["flags"])) == set(np.unique(found["on"])) == {0, 1}


MEAN, DEVIATION = np.array([5e-4, 50.0, 5e4, 0.5]), np.array([1e-4, 30.0, 3e4, 0.3])


def normalised(form: str) -> bytes:
    """Inputs of very different size that the graph brings to mean 0 and deviation 1 itself."""
    nodes: list[onnx.NodeProto] = []
    image = form.startswith("image")
    shape = (4, 1, 1) if image else (4,)
    constants: dict[str, Any] = {
        "m": MEAN.reshape(shape).astype(np.float32),
        "d": DEVIATION.reshape(shape).astype(np.float32),
        "r": (1 / DEVIATION).reshape(shape).astype(np.float32),
        "s": (-MEAN / DEVIATION).reshape(shape).astype(np.float32),
        "v": (DEVIATION**2).astype(np.float32),
        "one": np.ones(4, np.float32),
        "none": np.zeros(4, np.float32),
        "mean": MEAN.astype(np.float32),
        "w": weights(6, 4, 3, 3) if image else weights(4, 6),
    }
    sizes = ["N", 4, 8, 8] if image else ["N", 4]
    source = "x"
    if form == "image, channels last":
        sizes = ["N", 8, 8, 4]
        nodes.append(node("Transpose", "x", "t", perm=[0, 3, 1, 2]))
        source = "t"
    match form.split(",")[0]:
        case "image":
            nodes += [node("Sub", f"{source} m", "a"), node("Div", "a d", "z")]
        case "multiplied":
            nodes += [node("Mul", "r x", "a"), node("Add", "a s", "z")]
        case "subtracted":
            nodes += [node("Sub", "x m", "a"), node("Div", "a d", "z")]
        case "batch norm":
            nodes += [node("BatchNormalization", "x one none mean v", "z", epsilon=1e-12)]
    nodes.append(node("Conv" if image else "Gemm", "z w", "c"))
    nodes.append(node("Relu", "c", "y"))
    return declared(make_model(nodes, {"x": sizes}, ["y"], constants))


FORMS = ["subtracted", "multiplied", "batch norm", "image", "image, channels last"]


@pytest.mark.parametrize("form", FORMS)
def test_a_normalisation_in_the_graph_tells_mean_and_scale(form: str, tmp_path: Path) -> None:
    model = normalised(form)
    for found in (drawn(model)["x"], packed(model, tmp_path)["x"]):
        columns = found.reshape(-1, 4) if found.shape[-1] == 4 else found.transpose(0, 2, 3, 1)
        columns = columns.reshape(-1, 4)
        assert (np.abs(columns.mean(axis=0) - MEAN) < 1.5 * DEVIATION).all()
        ratios = columns.std(axis=0) / DEVIATION
        assert ((ratios > 0.1) & (ratios < 2)).all()


def test_bytes_divided_by_255_are_drawn_from_0_to_255() -> None:
    constants = {"b": np.float32(255), "w": weights(6, 3, 3, 3)}
    nodes = [node("Div", "x b", "z"), node("Conv", "z w", "y")]
    found = drawn(make_model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], constants))["x"]
    assert 100 < found.mean() < 155 and 40 < found.std() < 90


def first_layer(mean: float, deviation: float, channels: int = 16) -> bytes:
    """A network trained on inputs of *mean* and *deviation*: its first layer makes up for them."""
    kernel = weights(channels, 3, 3, 3) / np.float32(deviation)
    constants = {
        "w": kernel,
        "b": (-kernel.sum(axis=(1, 2, 3)) * mean).astype(np.float32),
        "v": weights(5, channels, 1, 1),
    }
    nodes = [
        node("Conv", "x w b", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Conv", "g v", "p"),
        node("Flatten", "p", "y"),
    ]
    return declared(make_model(nodes, {"x": ["N", 3, 12, 12]}, ["y"], constants))


RANGES = [(0.0, 1.0), (0.0, 1e-3), (120.0, 55.0), (-40.0, 15.0)]


@pytest.mark.parametrize(("mean", "deviation"), RANGES)
def test_the_first_layer_tells_the_range_of_inputs_without_a_normalisation(
    mean: float, deviation: float, tmp_path: Path
) -> None:
    model = first_layer(mean, deviation)
    for found in (drawn(model)["x"], packed(model, tmp_path)["x"]):
        assert abs(found.mean() - mean) < 0.6 * deviation
        assert 0.2 * deviation < found.std() < 5 * deviation


def test_biases_that_no_mean_explains_tell_none() -> None:
    constants = {"w": weights(16, 3, 3, 3), "b": 3 * weights(16, 1).reshape(-1)}
    model = make_model([node("Conv", "x w b", "y")], {"x": ["N", 3, 9, 9]}, ["y"], constants)
    assert abs(drawn(model)["x"].mean()) < 0.1


@pytest.mark.parametrize(("mean", "deviation"), RANGES)
def test_a_network_calibrated_on_them_answers_real_inputs(mean: float, deviation: float) -> None:
    model = first_layer(mean, deviation)
    run = Pipeline(compile_model(model))
    real = np.random.default_rng(9).normal(mean, deviation, (8, 3, 12, 12)).astype(np.float32)
    feeds = [{"x": real[i : i + 1]} for i in range(8)]
    wanted = np.concatenate([run_float(model, one)["y"] for one in feeds])
    found = np.concatenate([run(one)["y"] for one in feeds])
    assert np.sqrt(((found - wanted) ** 2).mean()) < 0.05 * np.sqrt((wanted**2).mean())


def test_what_is_told_is_not_scaled_again() -> None:
    told = {"x": Hint(np.zeros((1, 1)), np.full((1, 1), 7.0))}
    samples = {"x": np.full((2, 3), 7.0, np.float32), "z": np.ones((2, 3), np.float32)}

    def tenth(sample: Any) -> Floats:
        return np.asarray(sample["z"] * np.array([[0.1, -0.1, 0.2]]), np.float32)

    found = to_scale(samples, told, tenth)
    np.testing.assert_array_equal(found["x"], samples["x"])
