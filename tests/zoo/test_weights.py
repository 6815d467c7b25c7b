"""Weights of the user's: every way in which a file of them can be wrong is said at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edged import zoo
from edged._onnxfile import read_onnx_bytes
from edged._onnxruntime import InferenceSession
from edged.errors import InputError, LimitError, ModelError, NotFoundError

NETWORK = "densenet-121"
Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def model() -> zoo.ZooModel:
    return zoo.build(NETWORK, seed=1, classes=3)


@pytest.fixture(scope="module")
def variables(model: zoo.ZooModel) -> Arrays:
    """The same weights as TensorFlow lays them out."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    return {
        p.name: arrays[p.name].transpose(2, 3, 1, 0)
        if p.kind is zoo.Kind.KERNEL
        else arrays[p.name].reshape(p.tensorflow_shape)
        for p in model.skeleton.parameters
    }


def outputs(model: zoo.ZooModel) -> npt.NDArray[Any]:
    session = InferenceSession(model.onnx(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(model.samples(1)))[0])


def saved(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_an_npz_of_variables_gives_the_same_network(
    model: zoo.ZooModel, variables: Arrays, tmp_path: Path
) -> None:
    named = {f"{name}:0": array for name, array in variables.items()}
    named["global_step"] = np.array(1)
    path = saved(tmp_path / "mine.npz", named)
    loaded = zoo.build(NETWORK, weights=path, classes=3)
    assert loaded.weights == "mine.npz"
    np.testing.assert_array_equal(outputs(loaded), outputs(model))


def test_an_onnx_file_does_and_so_does_one_with_external_data(
    model: zoo.ZooModel, tmp_path: Path
) -> None:
    proto = onnx.load_model_from_string(model.onnx())
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin")
    loaded = zoo.build(NETWORK, weights=path, classes=3)
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(NotFoundError, match=r"data of .* are in 'weights.bin', which is not there"):
        zoo.build(NETWORK, weights=path, classes=3)


@pytest.mark.parametrize("location", ["../secret.bin", "link/secret.bin", "{folder}/secret.bin"])
def test_external_data_outside_of_the_folder_are_refused(
    model: zoo.ZooModel, tmp_path: Path, location: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 20))
    (outside / "secret.bin").write_bytes(bytes(1 << 20))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    proto = onnx.load_model_from_string(model.onnx())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location.format(folder=outside))
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside of the folder of the model"):
        zoo.build(NETWORK, weights=folder / "model.onnx", classes=3)


def test_external_data_cut_short_are_refused(model: zoo.ZooModel, tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(model.onnx())
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin")
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"bytes of which it has .*; it is cut short"):
        zoo.build(NETWORK, weights=tmp_path / "model.onnx", classes=3)


def test_data_beyond_the_bound_are_not_read(model: zoo.ZooModel, tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(model.onnx())
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin")
    inside, outside = path.stat().st_size, (tmp_path / "weights.bin").stat().st_size
    assert len(read_onnx_bytes(path, inside + outside)) > outside
    for bound in (inside - 1, inside + outside // 2):
        with pytest.raises(LimitError, match="are left of what a model may have"):
            read_onnx_bytes(path, bound)


def test_all_that_does_not_fit_is_named_at_once(variables: Arrays, tmp_path: Path) -> None:
    first = "densenet121/conv1/weights"
    broken = dict(variables)
    del broken["densenet121/logits/biases"]
    broken[first] = broken[first].transpose(3, 2, 0, 1)
    broken["densenet121/BatchNorm/gamma"] = np.full(64, np.nan, np.float32)
    broken["densenet121/conv2/weights"] = np.zeros(3, np.float32)
    with pytest.raises(ModelError) as caught:
        zoo.build(NETWORK, weights=saved(tmp_path / "mine.npz", broken), classes=3)
    message = str(caught.value)
    assert message.startswith("cannot use the weights of mine.npz, read as TensorFlow's variables:")
    assert "1 missing: densenet121/logits/biases;" in message
    assert f"{first} is [64, 3, 7, 7], wanted [7, 7, 3, 64]" in message
    assert "1 unknown: densenet121/conv2/weights" in message
    assert "not finite floating-point numbers: densenet121/BatchNorm/gamma (float32)" in message
    assert "docs/zoo.md" in message


def test_weights_of_another_network_are_cut_to_a_readable_length(
    variables: Arrays, tmp_path: Path
) -> None:
    path = saved(tmp_path / "mine.npz", variables)
    with pytest.raises(ModelError, match=r"\d+ missing: .*, and \d+ more; ") as caught:
        zoo.build("vgg-16", weights=path)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("w.npz", b"PK\x03\x04 not really", "no archive of arrays"),
        ("w.onnx", b"\xff\xff\xff", "no valid ONNX model"),
        ("w.ckpt", b"", "wanted an .onnx or .npz file"),
    ],
)
def test_files_that_are_something_else(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        zoo.build(NETWORK, weights=tmp_path / name)


def test_the_command_lists_and_makes_a_bundle_that_says_its_weights_are_random(
    tmp_path: Path,
) -> None:
    listed = edgectl("zoo", "--json")
    assert {row["name"] for row in json.loads(listed.stdout)} == set(zoo.NETWORKS)
    made = edgectl("zoo", NETWORK, "--classes", "5", "--seed", "7", "-o", tmp_path)
    assert made.returncode == 0, made.stderr
    path = tmp_path / "densenet-121-1.0.0.edgemodel"
    assert made.stdout.startswith(f"{path}: densenet-121, random weights, seed 7, ")
    assert list(tmp_path.iterdir()) == [path]
    said = edgectl("inspect", path).stdout
    assert "source     random weights, seed 7\n" in said
    assert "input      Placeholder:0 float32 [N, 224, 224, 3], also images\n" in said
    assert "images     imagenet to 224x224 into Placeholder:0" in said


def test_a_command_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"nothing")
    for words, problem in (
        ((NETWORK, "--weights", "w.npz", "-o", "out.onnx"), "no archive of arrays"),
        ((NETWORK, "-o", "out.txt"), "ends in .onnx or .edgemodel"),
        ((NETWORK,), "-o says where to"),
        ((NETWORK, "--weights", "w.npz", "--seed", "1", "-o", "out.onnx"), "cannot use both"),
        ((NETWORK, "-o", "nowhere/out.onnx"), "there is no folder nowhere"),
    ):
        done = edgectl("zoo", *words, cwd=tmp_path)
        assert done.returncode == 65, done.stderr
        assert done.stderr.startswith("edgectl: cannot ") and problem in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def edgectl(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )
