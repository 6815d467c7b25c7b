"""What ``edgectl push`` says when it cannot copy."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edged.cli._app import app
from edged.errors import DeadlineError, IncompleteError, InputError


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EACCES, "usermod -aG edged USER"),
        (errno.ENOSPC, "edgectl remove NAME@VERSION"),
        (errno.EROFS, "mount it for writing"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_stands_in_the_way_is_said_with_what_to_do(
    number: int, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, drop = tmp_path / "model.onnx", tmp_path / "drop"
    model.write_bytes(b"x")
    drop.mkdir()

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "copyfile", refused)
    # As on what is mounted read-only: it cannot be taken away either.
    monkeypatch.setattr(Path, "unlink", refused)
    done = CliRunner().invoke(app, ["push", str(model), "--drop", str(drop)])
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith(f"cannot copy to {drop}: {os.strerror(number)}")
    assert cure in str(done.exception)


def push(source: Path, drop: Path) -> BaseException | None:
    """Push with nobody there to take it: what stands in the way, or that none took it in time."""
    words = ["push", str(source), "--drop", str(drop), "--wait", "0"]
    return CliRunner().invoke(app, words).exception


def tiny(folder: Path, location: str) -> Path:
    """A model with its weights in the file *location*."""
    weights = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
            [weights],
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_a_model_in_two_files_is_sent_as_one(tmp_path: Path) -> None:
    path, drop = tiny(tmp_path / "source", "model.onnx.data"), tmp_path / "drop"
    drop.mkdir()
    assert isinstance(push(path, drop), DeadlineError)
    assert [each.name for each in drop.iterdir()] == ["model.onnx"]
    sent = onnx.load(drop / "model.onnx")
    assert numpy_helper.to_array(sent.graph.initializer[0]).tolist() == [0, 1, 2]

    (tmp_path / "source" / "model.onnx.data").unlink()
    problem = push(path, drop)
    assert isinstance(problem, IncompleteError)
    assert "'model.onnx.data', which is not there" in str(problem)


def test_a_folder_is_sent_whole_and_again(tmp_path: Path) -> None:
    path, drop = tiny(tmp_path / "resnet" / "1", "model.onnx.data"), tmp_path / "drop"
    drop.mkdir()
    for _ in range(2):
        assert isinstance(push(tmp_path / "resnet", drop), DeadlineError)
        assert [each.name for each in drop.iterdir()] == ["resnet"]
        assert (drop / "resnet" / "1" / "model.onnx").read_bytes() == path.read_bytes()
        assert (drop / "resnet" / "1" / "model.onnx.data").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("net.onnx", b"<!DOCTYPE html>", "a web page and no model"),
        ("net.tflite", b"x", "--tflite net.tflite --output net.onnx"),
        ("README", b"x", "edged takes files that end in .edgemodel and .onnx"),
        ("saved/saved_model.pb", b"x", "edgectl convert saved --name saved"),
    ],
)
def test_what_is_no_model_is_not_sent(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path, drop = tmp_path / name, tmp_path / "drop"
    drop.mkdir()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    problem = push(path.parent if "/" in name else path, drop)
    assert isinstance(problem, InputError)
    assert says in str(problem)
    assert list(drop.iterdir()) == []
