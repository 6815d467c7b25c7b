"""What a user is told of a model that mostly stays on the host and was calibrated on nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from integration.appliance import Appliance, eventually
from onnx import TensorProto, helper, numpy_helper

SHARE = (
    "14 % of the multiply-accumulates stay on the host (Einsum ×1: 14 % would move if the device"
    " could run it)"
)


def squares(path: Path) -> Path:
    """A convolution, and a product of computed matrices, which the device lacks."""
    weights = np.random.default_rng(2).normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Einsum", ["c", "c"], ["y"], equation="nchw,ncwv->nchv"),
    ]
    shape = ["N", 8, 12, 12]
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_nothing_is_silent(appliance: Appliance, tmp_path: Path) -> None:
    told = appliance.put(squares(tmp_path / "squares.onnx"))
    _, model, made_up, share, _ = told.splitlines()
    assert model.startswith("squares 0.0.0")
    assert made_up.startswith("note: calibrated on made-up inputs")
    assert share == f"note: {SHARE}"

    status = appliance.edgectl("status").stdout
    assert f"note     {SHARE}\n" in status and "note     calibrated on made-up" in status
    models = appliance.edgectl("models").stdout
    assert "  86%" in models.splitlines()[1] and SHARE in models.splitlines()[-1]
    (found,) = json.loads(appliance.edgectl("models", "--json").stdout)["models"]
    codes = {each["code"]: each.get("value") for each in found["remarks"]}
    assert codes == {"made-up-calibration": None, "host-share": 0.1429}
    inspected = appliance.edgectl("inspect", "squares").stdout
    assert f"note       {SHARE}\n" in inspected and found["digest"] in inspected
    gone = appliance.edgectl("inspect", "squared")
    assert gone.returncode == 66 and f"it has squares@{found['version']}" in gone.stderr
    log = appliance.log.read_text()
    assert log.count(f"squares {found['version']}: {SHARE}") == 1
    assert "made-up inputs" in log

    # After a restart the lines are those of the store.
    appliance.kill(appliance.daemon)
    appliance.start_daemon()
    again = f"squares {found['version']}: {SHARE}"
    eventually(lambda: appliance.log.read_text().count(again) == 2, "the model to serve again")
    eventually(lambda: f"note: {SHARE}" in appliance.status_of("squares.onnx"), "its status")
    assert appliance.status_of("squares.onnx").count("note: ") == 2
