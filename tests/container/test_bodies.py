"""What is in a body of REST: base64, and numbers that are none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.bundle import pack, verify_bundle
from edged.compiler import compile_model
from edged.container import ProcessLauncher
from edged.container.worker._json import from_base64
from edged.device import vfio_user
from edged.errors import RequestError
from edged.wire import rest


@pytest.mark.parametrize("size", range(7))
@pytest.mark.parametrize("padding", ["=", ".", ""])
def test_base64_is_padded_whole_or_not_at_all(size: int, padding: str) -> None:
    data = bytes(range(250, 250 + size)) if size < 6 else bytes(size)
    text = base64.b64encode(data).decode()
    assert from_base64(text.replace("=", padding)) == data


def test_white_space_in_base64_counts_nowhere() -> None:
    data = np.random.default_rng(1).bytes(1000)
    assert from_base64(base64.encodebytes(data).decode()) == data
    spaced = "".join(f"{each} \t\r\n\v\f" for each in base64.b64encode(data).decode())
    assert from_base64(spaced) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A", "ends after 1 characters and 0 of padding"),
        ("AA=", "ends after 2 characters and 1 of padding"),
        ("AAA==", "ends after 3 characters and 2 of padding"),
        ("AAAA=", "ends after 4 characters and 1 of padding"),
        ("AA==AA==", "no base64"),
        ("AA\0A", "no base64"),
        ("AAAé", "no base64"),
        ("AA-_", "URL-safe alphabet"),
        ("data:image/png;base64,AAAA", "data URL"),
    ],
)
def test_what_is_no_base64_is_refused(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        from_base64(text)


def make_mending_model() -> bytes:
    """float32 [N, 4] → ``out`` [N, 3]: a matrix product of what replaces NaN by 0.5."""
    constants = {
        "half": np.float32(0.5),
        "weights": np.random.default_rng(1).normal(0, 1, (4, 3)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["input"], ["missing"]),
            helper.make_node("Where", ["missing", "half", "input"], ["mended"]),
            helper.make_node("MatMul", ["mended", "weights"], ["out"]),
        ],
        "mending",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


async def test_a_model_that_looks_for_nan_is_given_it(
    tmp_path: Path, emulate: Callable[..., Any]
) -> None:
    (tmp_path / "mending.onnx").write_bytes(make_mending_model())
    values = np.random.default_rng(2).uniform(-1, 1, (32, 4)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", input=values)
    pack(
        tmp_path / "mending.onnx",
        name="mending",
        version="1.0.0",
        calibration=tmp_path / "calibration.npz",
        output=tmp_path / "mending.edgemodel",
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    verify_bundle(tmp_path / "mending.edgemodel", folder)
    compile_model((folder / "model.onnx").read_bytes(), calibration={"input": values}).write(folder)
    container = await ProcessLauncher().start(folder)
    try:
        with emulate(tmp_path, folder) as emulator:
            await container.attach(vfio_user.connect(emulator.socket))
            found = []
            for given in ([0.25, None, 1.0, -1.0], [0.25, 0.5, 1.0, -1.0]):
                row = [float("nan") if value is None else value for value in given]
                body = json.dumps({"instances": [row]}).encode()
                said, _ = rest.unframe(await container.call(rest.PREDICT, body, 30))
                found.append(json.loads(bytes(said))["predictions"])
            assert found[0] == found[1]
    finally:
        await container.stop()
