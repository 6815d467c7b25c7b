"""The self-test of outputs that are no quantities: labels, indices, masks, rows found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.bundle import FileName, Judge, VerifiedBundle, pack, read_arrays, verify_bundle
from edged.errors import DeviceError

CLASSES = 5


def head(*nodes: onnx.NodeProto, outputs: dict[str, tuple[int, list[int | str]]]) -> bytes:
    """Image [N, 3, 8, 8] → ``scores`` [N, 5, 8, 8] → *nodes*."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((CLASSES, 3, 1, 1)).astype(np.float32),
        "zero": np.float32(0),
        "three": np.array([3]),
        "boxes": rng.uniform(0, 9, (1, 64, 4)).astype(np.float32),
        "rows": np.array([1, CLASSES, 64]),
        "byte": np.float32(128),
    }
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["scores"]), *nodes],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def step(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def packed(tmp_path: Path, model: bytes, **options: Any) -> VerifiedBundle:
    path = tmp_path / "head.onnx"
    path.write_bytes(model)
    pack(path, name="head", version="1.0.0", output=tmp_path / "head.edgemodel", **options)
    return verify_bundle(tmp_path / "head.edgemodel", tmp_path / "verified")


ARGMAX = step("ArgMax", "scores", "label", axis=1, keepdims=0)
MASK: list[int | str] = ["N", 8, 8]
HEADS = {
    "argmax": head(ARGMAX, outputs={"label": (TensorProto.INT64, MASK)}),
    "argmax as float": head(
        ARGMAX,
        step("Cast", "label", "y", to=TensorProto.FLOAT),
        outputs={"y": (TensorProto.FLOAT, MASK)},
    ),
    "mask": head(
        step("Greater", "scores zero", "mask"),
        outputs={"mask": (TensorProto.BOOL, ["N", CLASSES, 8, 8])},
    ),
    "indices": head(
        step("GlobalAveragePool", "scores", "mean"),
        step("TopK", "mean three", "best which", axis=1),
        outputs={
            "best": (TensorProto.FLOAT, ["N", 3, 1, 1]),
            "which": (TensorProto.INT64, ["N", 3, 1, 1]),
        },
    ),
}


@pytest.mark.parametrize("form", HEADS)
def test_discrete_outputs_may_differ_in_some_elements(form: str, tmp_path: Path) -> None:
    verified = packed(tmp_path, HEADS[form])
    test = verified.manifest.self_test
    assert test is not None
    expected = read_arrays(verified.folder / FileName.SELF_TEST)
    output, tolerance = verified.manifest.outputs[-1], test.tolerances[-1]
    vectors = expected[f"out:{output.name}"]
    assert vectors.dtype.kind in "iub" and 0 < tolerance <= 0.5

    def judged(share: float) -> None:
        """Judge answers of which the first elements are wrong."""
        found = vectors.astype(np.float32).reshape(-1)
        found[: int(share * found.size)] -= CLASSES
        judge = Judge("y", vectors, tolerance)
        for sample, answer in enumerate(found.reshape(vectors.shape)):
            judge.add(sample, answer[np.newaxis])
        judge.finish()

    judged(0.0)
    judged(tolerance)
    with pytest.raises(DeviceError, match=r"of output 'y' differ, .* may; .*--calibration"):
        judged(min(tolerance + 0.2, 1.0))


@pytest.mark.parametrize("form", ["argmax", "mask"])
def test_the_commonest_value_everywhere_does_not_pass(form: str, tmp_path: Path) -> None:
    verified = packed(tmp_path, HEADS[form])
    test = verified.manifest.self_test
    assert test is not None
    (name,) = (f"out:{tensor.name}" for tensor in verified.manifest.outputs)
    vectors = read_arrays(verified.folder / FileName.SELF_TEST)[name]
    values, counts = np.unique(vectors, return_counts=True)
    constant = np.full_like(vectors[:1], values[counts.argmax()])
    judge = Judge("y", vectors, test.tolerances[0])
    for sample in range(len(vectors)):
        judge.add(sample, constant)
    with pytest.raises(DeviceError, match="differ"):
        judge.finish()


def test_an_image_of_bytes_may_differ_everywhere_by_a_little() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    judge = Judge("image", image, 0.1)
    judge.add(0, (image // 2 * 2 + 1).astype(np.uint8))
    judge.finish()
    judge.add(0, image[:, ::-1])
    with pytest.raises(DeviceError, match="differ"):
        judge.finish()


def test_one_element_may_differ_where_there_are_few() -> None:
    labels = np.array([3, 90, 3, 41])
    judge = Judge("label", labels, 1e-6)
    for sample, label in enumerate([3, 7, 3, 41]):
        judge.add(sample, np.array([label]))
    judge.finish()


def test_quantities_are_held_to_their_tolerance_and_the_way_out_is_named() -> None:
    judge = Judge("y", np.zeros((1, 2), np.float32), 0.5)
    judge.add(0, np.full((1, 2), 0.5, np.float32))
    for found in (0.6, np.nan):
        with pytest.raises(DeviceError, match=r"off by .* the tolerance is 0.5; .*--tolerance"):
            judge.add(0, np.full((1, 2), found, np.float32))
    with pytest.raises(DeviceError, match=r"has shape \(1, 3\), wanted \(1, 2\)"):
        judge.add(0, np.zeros((1, 3), np.float32))


def test_outputs_whose_size_depends_on_the_values_are_not_judged(tmp_path: Path) -> None:
    model = head(
        step("Reshape", "scores rows", "flat"),
        step("NonMaxSuppression", "boxes flat three", "found"),
        step("NonZero", "scores", "places"),
        outputs={
            "found": (TensorProto.INT64, ["rows", 3]),
            "places": (TensorProto.INT64, [4, "n"]),
        },
    )
    verified = packed(tmp_path, model)
    names = read_arrays(verified.folder / FileName.SELF_TEST).keys()
    assert list(names) == ["in:x"]


def test_a_given_tolerance_is_a_share_too(tmp_path: Path) -> None:
    verified = packed(tmp_path, HEADS["argmax"], tolerance=0.4)
    test = verified.manifest.self_test
    assert test is not None and test.tolerances == (0.4,)


def test_steady_samples_are_chosen(tmp_path: Path) -> None:
    """Of samples half of which lie on the border between two classes, the others."""
    steady = np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype(np.float32)
    steady[::2] *= 1e-9  # All scores are nearly nothing, beside the noise of the whole.
    np.savez(tmp_path / "samples.npz", x=steady)
    verified = packed(tmp_path, HEADS["argmax"], calibration=tmp_path / "samples.npz")
    chosen = read_arrays(verified.folder / FileName.SELF_TEST)["in:x"]
    np.testing.assert_array_equal(chosen, steady[1::2])
