"""``edgectl`` as a process: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from edged import wire
from edged.wire import inference

DATA = Path(__file__).parents[1] / "data"
LABELS = DATA / "imagenet_labels_1001.txt"
PHOTO = DATA / "images" / "snowleopardgaze.jpg"


def edgectl(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    done = edgectl(
        "pack",
        DATA / "models" / "mobilenet_v2_imagenet.onnx",
        *("--name", "mobilenet-v2", "--version", "1.0.0", "--labels", LABELS),
        *("--preprocess", "stretch=224x224", "--calibration", PHOTO),
        *("--calibration", DATA / "images" / "dog.jpg", "--licence", "Apache-2.0"),
        cwd=folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / "mobilenet-v2-1.0.0.edgemodel"
    assert done.stdout.startswith(f"{path.name}: ")
    assert "sha256:" in done.stdout
    return path


@pytest.fixture
def server() -> Iterator[str]:
    """Answers every image with the same 1001 scores, and nothing else; its address."""
    yield from answering(None)


@pytest.fixture
def labelled() -> Iterator[str]:
    """The same, and it says the labels of the model when it is asked, as edged does."""
    yield from answering(LABELS.read_text().rstrip())


def answering(labels: str | None) -> Iterator[str]:
    values = np.zeros((1, 1001), np.float32)
    values[0, [287, 290, 282]] = 0.5, 0.3, 0.1

    def predict(request: wire.PredictRequest, context: grpc.ServicerContext) -> object:
        if request.inputs["images"].string_val[0][:2] != b"\xff\xd8":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "cannot decode the image: no JPEG")
        return wire.PredictResponse(outputs={"scores": wire.from_array(values)})

    server = grpc.server(ThreadPoolExecutor(1))

    def configure(request: inference.ModelConfigRequest, context: grpc.ServicerContext) -> object:
        response = inference.ModelConfigResponse()
        response.config.parameters["labels"].string_value = labels or ""
        return response

    for name, function, parse in (
        (wire.PREDICT, predict, wire.PredictRequest.FromString),
        (inference.MODEL_CONFIG, configure, inference.ModelConfigRequest.FromString),
    ):
        service, _, method = name.partition("/")
        handler = grpc.unary_unary_rpc_method_handler(
            function, parse, lambda response: response.SerializeToString()
        )
        handlers = {} if labels is None and function is configure else {method: handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_help_shows_the_commands_and_examples() -> None:
    whole = edgectl("--help")
    assert whole.returncode == 0
    assert "Exit status" in whole.stdout
    for command in ("pack", "inspect", "verify", "score", "activate", "rollback", "history"):
        assert f" {command} " in whole.stdout
    help_text = edgectl("pack", "--help")
    assert help_text.returncode == 0
    assert "edgectl pack mobilenet.onnx --name" in help_text.stdout


def test_wrong_usage_is_2() -> None:
    done = edgectl("pack")
    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_inspect(packed: Path) -> None:
    done = edgectl("inspect", packed)
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["model"] == "mobilenet-v2 1.0.0 (serial 1000000)"
    assert lines["input"] == "input uint8 [1, 224, 224, 3], also images"
    assert lines["images"] == "stretch to 224x224 into input, antialias"
    assert lines["licence"] == "Apache-2.0"
    assert lines["digest"].startswith("sha256:") and len(lines["digest"]) == 71


def test_inspect_says_how_it_would_run(packed: Path, tmp_path: Path) -> None:
    found = json.loads(edgectl("inspect", packed, "--json").stdout)
    codes = {each["code"]: each.get("value") for each in found["remarks"]}
    assert codes["host-share"] == 0.0 and found["problem"] == ""
    bare = edgectl("inspect", DATA / "models" / "kws_dscnn.onnx")
    assert "input      input_1 float32 [N, 49, 10, 1]\n" in bare.stdout
    assert "note       calibrated on made-up inputs" in bare.stdout
    assert "note       all multiply-accumulates run on the device\n" in bare.stdout
    gone = edgectl("inspect", "gone", "--socket", tmp_path / "none")
    assert gone.returncode == 66
    assert gone.stderr.startswith("edgectl: cannot inspect gone: there is no such file, and edged")


def test_inspect_for_programs(packed: Path) -> None:
    found = json.loads(edgectl("inspect", packed, "--json").stdout)
    assert found["manifest"]["descriptor"]["name"] == "mobilenet-v2"
    assert found["manifest"]["edged"]["preprocess"]["width"] == 224
    assert found["digest"] in edgectl("verify", packed).stdout


def test_verify_goes_on_after_a_bad_one(packed: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.edgemodel"
    bad.write_bytes(packed.read_bytes()[:100_000])
    done = edgectl("verify", bad, packed)
    assert done.returncode == 65
    assert done.stderr.startswith("edgectl: cannot read bad.edgemodel: ")
    assert "it is cut short" in done.stderr
    assert done.stdout.startswith(f"{packed}: ok, mobilenet-v2 1.0.0, sha256:")
    one, two = json.loads(edgectl("verify", "--json", bad, packed).stdout)
    assert (one["ok"], two["ok"]) == (False, True)


def test_errors_are_one_line_with_the_status_of_their_class(tmp_path: Path) -> None:
    model = tmp_path / "x.onnx"
    required = ("--name", "x", "--version", "1.0.0")
    done = edgectl("pack", model, *required)
    assert done.returncode == 66
    assert done.stderr == f"edgectl: cannot read {model}: there is no such file\n"
    model.write_text("hello")
    done = edgectl("pack", model, *required)
    assert done.returncode == 65
    assert done.stderr.startswith("edgectl: cannot read x.onnx: it is no valid ONNX model")
    done = edgectl("pack", model, *required, "--alias", "x")
    assert done.returncode == 65
    assert "wanted TENSOR=ALIAS" in done.stderr
    assert list(tmp_path.iterdir()) == [model]


def test_packing_without_calibration_says_what_that_costs(tmp_path: Path) -> None:
    output = tmp_path / "kws.edgemodel"
    done = edgectl(
        "pack",
        DATA / "models" / "kws_dscnn.onnx",
        *("--name", "kws", "--version", "1.0.0", "-o", output, "--json"),
        *("--alias", "input_1=sound", "--alias", "Identity=scores", "--serial", "9"),
    )
    assert done.returncode == 0
    assert "no --calibration" in done.stderr and "costs accuracy" in done.stderr
    found = json.loads(done.stdout)
    assert (found["path"], found["size"]) == (str(output), output.stat().st_size)
    manifest = json.loads(edgectl("inspect", output, "--json").stdout)["manifest"]["edged"]
    assert (manifest["serial"], manifest["inputs"][0]["alias"]) == (9, "sound")


def test_score(server: str, packed: Path) -> None:
    done = edgectl("score", PHOTO, "--address", server, "--labels", LABELS, "--top", "2")
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = done.stdout.splitlines()
    assert head.startswith(f"{PHOTO}: ") and head.endswith(" ms")
    labels = LABELS.read_text().splitlines()
    assert (first, second) == (f"  0.500  {labels[287]}", f"  0.300  {labels[290]}")
    port = server.rpartition(":")[2]
    done = edgectl("score", "--port", port, "--bundle", packed, "--json", PHOTO, PHOTO)
    results = json.loads(done.stdout)
    assert [result["image"] for result in results] == [str(PHOTO), str(PHOTO)]
    assert results[0]["top"][0] == {"class": 287, "label": labels[287], "value": 0.5}
    assert len(results[0]["top"]) == 5 and results[0]["milliseconds"] > 0


def test_score_without_labels(server: str) -> None:
    """Of a server that is none of edged's."""
    done = edgectl("score", PHOTO, "--address", server, "--top", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "  0.500  class 287"


def test_score_has_the_labels_of_the_model_unless_told_otherwise(
    labelled: str, tmp_path: Path
) -> None:
    done = edgectl("score", PHOTO, "--address", labelled, "--top", "1")
    assert done.stdout.splitlines()[1] == f"  0.500  {LABELS.read_text().splitlines()[287]}"
    other = tmp_path / "other.txt"
    other.write_text("".join(f"number {index}\n" for index in range(1001)))
    done = edgectl("score", PHOTO, "--address", labelled, "--top", "1", "--labels", other)
    assert done.stdout.splitlines()[1] == "  0.500  number 287"


def test_score_errors(server: str, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    done = edgectl("score", text, "--address", server)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr == "edgectl: cannot decode the image: no JPEG\n"
    done = edgectl("score", tmp_path / "none.jpg", "--address", server)
    assert done.returncode == 66
    done = edgectl("score", PHOTO, "--address", "unix:/nowhere.sock", "--timeout", "1")
    assert done.returncode == 75
    assert done.stderr.startswith("edgectl: cannot get an answer from unix:/nowhere.sock: ")
    assert done.stderr.count("\n") == 1
