"""The conversion with a real TensorFlow, where an interpreter has it; and what is said without.

``EDGED_TENSORFLOW_PYTHON`` names the interpreter: docs/from-tensorflow.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edged._onnxruntime import InferenceSession
from edged.bundle import read_arrays, verify_bundle
from edged.compiler import compile_model
from edged.convert import convert
from edged.errors import ConfigError, InputError, ModelError, NotFoundError
from edged.preprocess import image_to_array

HERE = Path(__file__).parent
PHOTO = HERE.parent / "data" / "images" / "schoolbus.jpg"
TENSORFLOW = os.environ.get("EDGED_TENSORFLOW_PYTHON", "")
OUTPUT = "classifier/predictions/Softmax:0"
MAPPED = "map/TensorArrayStack/TensorArrayGatherV3:0"

needs_tensorflow = pytest.mark.skipif(
    not TENSORFLOW, reason="EDGED_TENSORFLOW_PYTHON names no interpreter with tf2onnx"
)


@pytest.fixture
def without(tmp_path: Path) -> str:
    """An interpreter without any library."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_without_tensorflow_it_says_what_to_install(without: str, tmp_path: Path) -> None:
    graph = HERE / "graphs" / "imagenet-tf1.pb"
    with pytest.raises(ConfigError, match=r"No module named 'tensorflow' .*--python tf/bin/python"):
        convert(graph, tmp_path / "model.onnx", outputs=[OUTPUT], python=without)
    with pytest.raises(ConfigError, match="cannot run /nowhere/python"):
        convert(graph, tmp_path / "model.onnx", outputs=[OUTPUT], python="/nowhere/python")
    assert not (tmp_path / "model.onnx").exists()


def test_what_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no such file or folder"):
        convert(tmp_path / "none", tmp_path / "model.onnx")
    graph = HERE / "graphs" / "imagenet-tf1.pb"
    with pytest.raises(InputError, match=r"does not say what its outputs are; .*--result"):
        convert(graph, tmp_path / "model.onnx")


@pytest.fixture
def recording(tmp_path: Path) -> tuple[str, Path]:
    """An interpreter that hands out a frozen graph, and writes down what it is to translate."""
    graph, asked = HERE / "graphs" / "training-tf1.pb", tmp_path / "asked.json"
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "job = json.load(sys.stdin)[0]\n"
        "if job['do'] == 'freeze':\n"
        f"    frozen = pathlib.Path({str(graph)!r}).read_bytes()\n"
        "    pathlib.Path(job['output']).write_bytes(frozen)\n"
        "    print(json.dumps({'ok': [{'inputs': {}, 'outputs': {}}]}))\n"
        "else:\n"
        f"    pathlib.Path({str(asked)!r}).write_text(json.dumps(job))\n"
        "    print(json.dumps({'error': 'cannot convert: that was all'}))\n"
    )
    script.chmod(0o755)
    return str(script), asked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "a/b"), "a/b"),
        (("--version", "one"), "one"),
        (("--labels", "none.txt"), "cannot read none.txt: there is no such file"),
        (("--preprocess", "strech"), "did you mean stretch"),
        (("--preprocess", "stretch,scale=x"), "scale is 'x'; wanted a number"),
        (("--preprocess", "stretch,channels=grb"), "none of rgb, bgr"),
        (("--calibration", "nowhere"), "cannot read nowhere: there is no such file or folder"),
        (("--calibration", "empty"), "there is no .jpg, .jpeg or .png in empty"),
        (("--calibration", "a.npz", "--calibration", "empty"), "wanted one .npz, or photographs"),
        (("-o", "frozen.pb/x.edgemodel"), "frozen.pb is no folder"),
    ],
)
def test_what_can_be_wrong_is_found_before_tensorflow_runs(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "frozen.pb").touch()
    (tmp_path / "a.npz").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden.jpg").touch()
    command = [sys.executable, "-m", "edged.cli", "convert", "frozen.pb", "--result", "x"]
    # An interpreter that would tell that it was run.
    command += ["--python", "/bin/false", "--name", "x", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode in (65, 66)
    assert said in done.stderr and "TensorFlow's process" not in done.stderr


def test_what_is_fed_in_training_only_is_no_input(
    recording: tuple[str, Path], tmp_path: Path
) -> None:
    python, asked = recording
    (tmp_path / "frozen.pb").touch()
    with pytest.raises(ModelError, match="that was all"):
        convert(tmp_path / "frozen.pb", tmp_path / "m.onnx", outputs=[OUTPUT], python=python)
    job = json.loads(asked.read_text())
    assert job["inputs"] == ["Placeholder:0"] and job["cut"]["name"] == "Placeholder:0"
    # An output that depends on nothing but such a one.
    inner = ["keras_learning_phase:0"]
    with pytest.raises(
        ModelError, match=r"one of 'keras_learning_phase:0' is the input, .*--input"
    ):
        convert(tmp_path / "frozen.pb", tmp_path / "m.onnx", outputs=inner, python=python)


def tensorflow_scores(saved: Path, photo: Path) -> np.ndarray:
    """As TensorFlow serves the SavedModel: the encoded image in."""
    script = (
        "import sys, json, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "data = tf.constant([open(sys.argv[2], 'rb').read()])\n"
        "print(json.dumps(serve(images=data)['output_alias'].numpy().tolist()))\n"
    )
    command = [TENSORFLOW, "-c", script, str(saved), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return np.array(eval(done.stdout.splitlines()[-1]))  # a list of numbers


@needs_tensorflow
@pytest.mark.parametrize(
    ("kind", "style"), [("imagenet", "tf1"), ("imagenet", "tf2"), ("training", "tf1")]
)
def test_the_tutorials_saved_model_becomes_a_bundle_with_the_same_answers(
    kind: str, style: str, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    command = [TENSORFLOW, str(HERE / "make_graphs.py"), kind, style]
    subprocess.run([*command, str(tmp_path / "frozen.pb"), str(saved)], check=True)
    bundle = tmp_path / "tutorial-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "convert", str(saved), "--name", "tutorial"]
    command += ["--calibration", str(PHOTO.parent), "-o", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "imagenet to 224x224" in done.stdout
    folder = tmp_path / "files"
    folder.mkdir()
    manifest = verify_bundle(bundle, folder).manifest
    (given,), (made,) = manifest.inputs, manifest.outputs
    assert (given.name, given.alias, given.dtype) == ("Placeholder:0", "images", "float32")
    assert (made.name, made.alias) == (OUTPUT, "output_alias")
    assert manifest.preprocess is not None and manifest.preprocess.transform == "imagenet"
    model = (folder / "model.onnx").read_bytes()
    pixels = image_to_array(PHOTO.read_bytes(), manifest.preprocess)
    (scores,) = InferenceSession(model).run(None, {given.name: pixels})
    np.testing.assert_allclose(scores, tensorflow_scores(saved, PHOTO), atol=2e-3)
    compiled = compile_model(model, calibration=read_arrays(folder / "calibration.npz"))
    assert compiled.image.layers[0].op.name == "CONV"


@needs_tensorflow
def test_a_frozen_graph_by_the_names_of_its_tensors(tmp_path: Path) -> None:
    graph, output = HERE / "graphs" / "unit-tf1.pb", tmp_path / "model.onnx"
    found = convert(graph, output, outputs=[OUTPUT, "features:0"], python=TENSORFLOW)
    assert found.preprocess is not None and found.preprocess.transform == "stretch"
    assert found.aliases == {}
    session = InferenceSession(output.read_bytes())
    assert [o.name for o in session.get_outputs()] == [OUTPUT, "features:0"]
    inner = f"{MAPPED}[1,32,24,3]"
    found = convert(graph, output, inputs=[inner], outputs=[OUTPUT], python=TENSORFLOW)
    assert found.preprocess is None
    (given,) = InferenceSession(output.read_bytes()).get_inputs()
    assert (given.name, given.shape[1:]) == (MAPPED, [32, 24, 3])


@needs_tensorflow
@pytest.mark.parametrize(
    ("graph", "inputs", "outputs", "said"),
    [
        ("imagenet-tf1", [], ["nowhere"], "the graph has no 'nowhere'; its last are"),
        ("imagenet-tf1", ["nowhere:0"], [OUTPUT], "no tensor 'nowhere:0'.* 'Placeholder'"),
        ("imagenet-tf1", [MAPPED], [OUTPUT], f"the shape of '{MAPPED}' is .*; wanted a fixed"),
        ("imagenet-tf1", [f"{MAPPED}[1,x]"], [OUTPUT], "a shape that cannot be read"),
        ("random-tf1", [], [OUTPUT], "stopped at RandomUniformInt 'map/while/random_uniform'"),
    ],
)
def test_what_cannot_be_converted(
    graph: str, inputs: list[str], outputs: list[str], said: str, tmp_path: Path
) -> None:
    output = tmp_path / "model.onnx"
    source = HERE / "graphs" / f"{graph}.pb"
    with pytest.raises((InputError, ModelError), match=said):
        convert(source, output, inputs=inputs, outputs=outputs, python=TENSORFLOW)
    assert not output.exists()
