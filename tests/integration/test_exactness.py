"""The emulator's fast executor equals the integer reference, every layer, every element."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edged._onnxruntime import session
from edged.compiler import CompiledModel, compile_model
from edged.emulator import Executor, exact_weight_encodings
from edged.npu import numerics, parse_image, serialize_image

Array = npt.NDArray[Any]

DATA = Path(__file__).parents[1] / "data"


def device_inputs(compiled: CompiledModel, inputs: dict[str, Array]) -> list[Array]:
    """What the prologue hands to the device, one [H, W, C] array per input of the image."""
    prologue = session(compiled.host[0])
    names = [tensor.name for tensor in compiled.image.input_tensors]
    return [value[0] for value in prologue.run(names, inputs)]


def assert_exact(compiled: CompiledModel, inputs: list[dict[str, Array]]) -> int:
    """Compare every tensor for every sample; how many values were compared."""
    image = parse_image(serialize_image(compiled.image))
    executor = Executor(image, weights=exact_weight_encodings(), expose_all=True)
    plain = Executor(image, weights=exact_weight_encodings())
    compared = 0
    for sample in inputs:
        given = device_inputs(compiled, sample)
        wanted = numerics.run_all(image, given)
        found = executor.run_all(given)
        assert found.keys() == wanted.keys()
        for index, value in wanted.items():
            np.testing.assert_array_equal(found[index], value, err_msg=image.tensors[index].name)
            compared += value.size
        # As it serves, with nothing exposed and every fusion allowed.
        for value, index in zip(plain.run(given), image.outputs, strict=True):
            np.testing.assert_array_equal(value, wanted[index])
    return compared


def test_mobilenet() -> None:
    """Photographs, and the extremes of all inputs: noise, black, white."""
    photographs = []
    for path in sorted((DATA / "images").glob("*.jpg")):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        photographs.append(np.asarray(small)[np.newaxis])
    model = (DATA / "models" / "mobilenet_v2_imagenet.onnx").read_bytes()
    compiled = compile_model(model, calibration={"input": np.concatenate(photographs)})
    noise = np.random.default_rng(3).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    flat = [np.full_like(noise, value) for value in (0, 255)]
    inputs = [{"input": value} for value in (*photographs[:3], noise, *flat)]
    assert assert_exact(compiled, inputs) > 40_000_000


def test_keyword_spotting() -> None:
    """Recorded words, and noise far outside of what the calibration saw."""
    with np.load(DATA / "kws01_accuracy_set.npz") as arrays:
        x = ((arrays["x"].astype(np.float32) - 83) * 0.5847029089927673).astype(np.float32)
    model = (DATA / "models" / "kws_dscnn.onnx").read_bytes()
    compiled = compile_model(model, calibration={"input_1": x[::10]})
    noise = np.random.default_rng(4).normal(0, 200, x[:8].shape).astype(np.float32)
    samples = [*x[5::25], *noise]
    assert assert_exact(compiled, [{"input_1": value[np.newaxis]} for value in samples]) > 1_000_000
