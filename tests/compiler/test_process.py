"""``python -m edged.compiler``: its lines, its exit status, and that it works when confined."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiler.pipeline import DATA, make_model, node

from edged import sandbox
from edged.compiler import __main__ as process
from edged.npu import Array, parse_image

KEYWORDS = DATA / "models" / "kws_dscnn.onnx"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job folder with a model that compiles; the output folder stands beside it."""
    (tmp_path / "out").mkdir()
    folder = tmp_path / "job"
    folder.mkdir()
    shutil.copy(KEYWORDS, folder / "model.onnx")
    return folder


def declared(name: str, *shape: int | None) -> str:
    """As much of a bundle's manifest as the compiler reads."""
    return json.dumps({"edged": {"inputs": [{"name": name, "shape": shape}]}})


def words(job: Path, *more: str) -> list[str]:
    output = job.parent / "out"
    return [sys.executable, "-m", "edged.compiler", str(job), "--output", str(output), *more]


def run(command: list[str]) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_progress_and_then_done(job: Path) -> None:
    np.savez(job / "calibration.npz", input_1=np.zeros((2, 49, 10, 1), np.float32))
    status, lines = run(words(job, "--target", "8x16x2"))
    assert status == 0
    assert lines[-1] == {"done": True}
    fractions = [line["progress"] for line in lines[:-1]]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert "calibrating" in {line["step"] for line in lines[:-1]}
    image = parse_image((job.parent / "out" / "program.img").read_bytes())
    assert image.array == Array(8, 16, 2)
    report = json.loads((job.parent / "out" / "report.json").read_text())
    assert (report["calibration"], report["samples"]) == ("samples", 2)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (declared("input_1", None, 49, 10, 1), ""),
        (declared("input_1", None, 49, None, 1), "to be fixed"),
        (declared("input_1", 1, 49, 11, 1), "11 contradicts 10"),
        (declared("x", 1, 2), "no input 'x'"),
        ("[" * 100, "nested too deeply"),
        ('{"edged": {}}', "manifest.json in the job"),
    ],
)
def test_open_sizes_are_those_of_the_manifest(job: Path, content: str, problem: str) -> None:
    model = onnx.load(job / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    onnx.save(model, job / "model.onnx")
    (job / "manifest.json").write_text(content)
    status, lines = run(words(job))
    assert (status == 0) == (not problem)
    assert problem in lines[-1].get("error", "")


@pytest.mark.parametrize("way", ["auto", "never"])
def test_it_compiles_when_it_is_confined(job: Path, way: str) -> None:
    confinement = sandbox.Confinement(
        read_only=(job,), writable=(job.parent / "out",), memory_bytes=1 << 30
    )
    command = words(job, "--confine", "--memory", str(1 << 30))
    status, lines = run(sandbox.command(command, confinement, (), bubblewrap=way))
    assert (status, lines[-1]) == (0, {"done": True})
    assert (job.parent / "out" / "program.img").exists()


def test_too_little_memory_is_said(job: Path) -> None:
    shutil.copy(DATA / "models" / "mobilenet_v2_imagenet.onnx", job / "model.onnx")
    bound = 160 << 20
    confinement = sandbox.Confinement(
        read_only=(job,), writable=(job.parent / "out",), memory_bytes=bound
    )
    command = words(job, "--confine", "--memory", str(bound))
    status, lines = run(sandbox.command(command, confinement, (), bubblewrap="never"))
    assert status == 69
    assert lines[-1]["kind"] == "LimitError"
    assert "more than the 160 MiB" in lines[-1]["error"]


def test_a_model_that_cannot_be_compiled(job: Path) -> None:
    (job / "model.onnx").write_bytes(
        make_model([node("Softmax", "x", "y")], {"x": ["N", 4]}, ["y"])
    )
    status, lines = run(words(job))
    assert status == 65
    assert lines[-1]["kind"] == "ModelError"
    assert lines[-1]["error"].startswith("cannot compile model: no part of it can be placed")
    assert list((job.parent / "out").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_calibration_data_that_are_no_archive(job: Path, content: bytes) -> None:
    (job / "calibration.npz").write_bytes(content)
    status, lines = run(words(job))
    assert status == 65
    assert "calibration.npz is no archive of arrays" in lines[-1]["error"]


def test_calibration_data_with_pickled_objects_are_refused(job: Path) -> None:
    np.savez(job / "calibration.npz", input_1=np.array([{}], object))
    status, lines = run(words(job))
    assert status == 65
    assert "cannot calibrate" in lines[-1]["error"]


def test_a_job_without_a_model(job: Path) -> None:
    (job / "model.onnx").unlink()
    status, lines = run(words(job))
    assert status == 65
    assert "there is no model.onnx" in lines[-1]["error"]


def test_a_fault_of_edged_is_said_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("shape is not None\nand more")

    monkeypatch.setattr(process, "_compile", fail)
    assert process.main([str(tmp_path), "--output", str(tmp_path)]) == 65
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["kind"] == "ModelError"
    assert answer["error"].startswith(
        "cannot compile model: edged itself failed over it (AssertionError: shape is not None);"
    )
    assert "Traceback" in said.err
