"""``edgectl compile`` as a process: the report as a table and as JSON, and models it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

DATA = Path(__file__).parents[1] / "data"
KEYWORDS = DATA / "models" / "kws_dscnn.onnx"
COLUMNS = ("LAYER", "OPERATOR", "WHERE", "OUTPUT", "MMACS", "WEIGHTS", "ACTIVATIONS", "ERROR")


def edgectl(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen inputs for the keyword model, as its data set gives them."""
    with np.load(DATA / "kws01_accuracy_set.npz") as arrays:
        raw = arrays["x"][:16].astype(np.float32)
    path = tmp_path_factory.mktemp("samples") / "inputs.npz"
    (declared,) = onnx.load(KEYWORDS).graph.input
    scaled = {declared.name: (raw - 83) * np.float32(0.5847029089927673)}
    np.savez(path, **scaled)  # type: ignore[arg-type]
    return path


def test_the_table_has_every_operator_with_its_place_and_reason(
    samples: Path, tmp_path: Path
) -> None:
    done = edgectl(
        *("compile", KEYWORDS, "--calibration", samples, "--report", "--measured", "4"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    table, _, summary = done.stdout.partition("\n\n")
    head, *rows = table.splitlines()
    assert [head.index(column) for column in COLUMNS] == sorted(map(head.index, COLUMNS))
    device = [row for row in rows if " device  " in row]
    convolutions = [row for row in device if " conv " in row]
    assert len(convolutions) == 10 and all("%" in row for row in device)
    (softmax,) = (row for row in rows if " Softmax " in row)
    assert "host (epilogue)" in softmax and "  the device has no such operator" in softmax
    facts = dict(line.split(maxsplit=1) for line in summary.strip().splitlines())
    assert facts["calibration"] == "16 samples"
    assert " at the peak, " in facts["activations"]
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_same_and_the_files_are_written(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = edgectl(
        *("compile", KEYWORDS, "--calibration", samples, "--report", "--json", "-o", out),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    layers = found["layers"]
    assert sum(layer["macs"] for layer in layers) == found["macs"] > 1e6
    assert all(0 < layer["error"] < 0.2 for layer in layers)
    assert all(h * w * c == r["activation_bytes"] for r in layers for h, w, c in [r["shape"]])
    together = sum(layer["weight_bytes"] for layer in layers)  # Each begins at a multiple of 64.
    assert together <= found["weights_bytes"] < together + 64 * len(layers)
    # Buffers are used again, yet two that live together never overlap.
    assert found["activations_bytes"] < found["activations_total_bytes"] / 2
    assert found["dram_bytes"] == found["activations_bytes"] + found["weights_bytes"]
    ends = [layer["address"] + layer["activation_bytes"] for layer in layers]
    assert max(ends) <= found["activations_bytes"]
    assert found["cycles"] == sum(layer["cycles"] for layer in layers) > 1000
    assert found["code_bytes"] > found["weights_bytes"]
    assert found["peak_memory_bytes"] > 50e6 and found["seconds"] > 0
    assert {path.name for path in out.iterdir()} == {
        *("program.img", "host-0.onnx", "host-1.onnx", "report.json", "remarks.json")
    }
    brief = json.loads(edgectl("compile", KEYWORDS, "--json", cwd=tmp_path).stdout)
    assert "layers" not in brief and brief["calibration"] == "synthetic"


def test_the_report_shows_parts_of_host_and_device_in_their_order(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["first"]),
        onnx.helper.make_node("Softmax", ["first"], ["between"], axis=1),
        onnx.helper.make_node("Conv", ["between", "w"], ["y"]),
    ]
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "two",
        [onnx.helper.make_tensor_value_info("x", real, [1, 8, 12, 12])],
        [onnx.helper.make_tensor_value_info("y", real, [1, 8, 8, 8])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "two.onnx"
    )
    done = edgectl("compile", "two.onnx", "--report", cwd=tmp_path)
    assert done.returncode == 0
    places = ("device (0)", "host (between 0 and 1)", "device (1)")
    assert [place for row in done.stdout.splitlines() for place in places if place in row] == [
        *places
    ]
    assert "the host takes 1 turn between runs of the device: of Softmax ×1" in done.stderr


def test_an_open_size_is_given(tmp_path: Path) -> None:
    model = onnx.load(KEYWORDS)
    name = model.graph.input[0].name
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    onnx.save(model, tmp_path / "dynamic.onnx")
    done = edgectl(
        "compile", "dynamic.onnx", "--shape", f"{name}=1,49,10,1", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["macs"] > 1e6
    done = edgectl("compile", "dynamic.onnx", "--shape", "1,49,ten,1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (65, "")
    assert "wanted NAME=SIZE,SIZE,… with the batch first" in done.stderr


def test_what_cannot_be_compiled(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    model = onnx.load(KEYWORDS)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    onnx.save(model, tmp_path / "dynamic.onnx")
    model = onnx.load(KEYWORDS)
    model.opset_import[0].version = 9
    onnx.save(model, tmp_path / "old.onnx")
    onnx.save(
        onnx.load(KEYWORDS), tmp_path / "apart.onnx", save_as_external_data=True, location="apart"
    )
    (tmp_path / "apart").unlink()
    name = onnx.load(KEYWORDS).graph.input[0].name
    for path, shape in (("size.npz", (8, 49, 12, 1)), ("none.npz", (0, 49, 10, 1))):
        # numpy's types take the arrays' names for its own options.
        np.savez(tmp_path / path, **{name: np.zeros(shape, np.float32)})  # type: ignore[arg-type]
    before = sorted(tmp_path.iterdir())
    for words, status, problem in (
        (("noise.onnx",), 65, "it is no valid ONNX model"),
        (("gone.onnx",), 66, "there is no such file"),
        (("gone.edgemodel",), 66, "there is no such file"),
        (("dynamic.onnx",), 65, "wanted every size but the batch to be fixed"),
        (("old.onnx",), 65, "it is of opset 9 and cannot be brought to 11"),
        (("apart.onnx",), 66, "are in 'apart', which is not there"),
        ((KEYWORDS, "--calibration", "size.npz"), 65, "float32 [8, 49, 12, 1], wanted float32"),
        ((KEYWORDS, "--calibration", "none.npz"), 65, "[0] samples for the model's inputs"),
        ((KEYWORDS, "--calibration", DATA / "images"), 65, "wanted an .npz of arrays"),
        ((KEYWORDS, "-o", "nowhere"), 65, "wanted a folder that exists"),
    ):
        done = edgectl("compile", *words, cwd=tmp_path)
        assert done.returncode == status, (words, done.stderr)
        assert done.stderr.startswith("edgectl: cannot "), done.stderr
        assert problem in done.stderr
        assert done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before
