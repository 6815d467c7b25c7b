#!/usr/bin/env bash
# ONNX Runtime 1.32.0 quantises float weights of a convolution between quantisers by itself, with one
# scale for all channels. A depthwise convolution of which one channel has large weights (and sees
# zeros, as a dead channel after batch norm does) then answers nonsense in the other channels. A float
# weight is what remains of a per-channel int8 weight once a tool has folded its DequantizeLinear.
#
# Seen: by default the other channels are off by up to 83 % of the largest value; with the session option
# session.disable_quant_qdq = 1, or with optimisations off, by nothing.
# Ends with a status other than 0 if this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(3)
weights = rng.uniform(0.1, 0.3, (4, 1, 3, 3)).astype(np.float32)
weights[0] *= 500
image = rng.uniform(0, 2, (1, 4, 8, 8)).astype(np.float32)
image[:, 0] = 0
constants = {
    "w": weights,
    "s": np.float32(2 / 255), "z": np.uint8(0),
    "t": np.float32(6 / 255), "o": np.uint8(0),
}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
    helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
    helper.make_node("Conv", ["b", "w"], ["c"], group=4),
    helper.make_node("QuantizeLinear", ["c", "t", "o"], ["d"]),
    helper.make_node("DequantizeLinear", ["d", "t", "o"], ["y"]),
]
graph = helper.make_graph(
    nodes, "net",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
    [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answer(change):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    change(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": image})[0][0, 1:]


level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
plain = answer(lambda options: setattr(options, "graph_optimization_level", level))
default = answer(lambda options: None)
off = answer(lambda options: options.add_session_config_entry("session.disable_quant_qdq", "1"))
share = float(np.abs(default - plain).max() / plain.max())
print(f"onnxruntime {ort.__version__}")
print(f"channels 1 to 3, default: off by up to {share:.0%} of the largest value")
print(f"with session.disable_quant_qdq = 1: off by {np.abs(off - plain).max():g}")
assert share > 0.5 and np.abs(off - plain).max() == 0
PYTHON
