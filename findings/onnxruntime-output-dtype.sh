#!/usr/bin/env bash
# ONNX Runtime 1.32.0 refuses a valid model of opset 21: a DequantizeLinear of int8 in front of a
# Transpose, what comes behind it being a float operator. Its own propagation of quantisers writes a
# QuantizeLinear with the output_dtype INT8, then gives it a zero point of another type, and refuses
# it. The same graph at opset 20 runs, and so does this one with the session option
# session.disable_quant_qdq = 1.
#
# Seen: "output_dtype INT8 does not match y_zero_point type UINT8".
# Ends with a status other than 0 if this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def tries(opset, off=False):
    constants = {"s": np.float32(0.5), "z": np.int8(0)}
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
            helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
            helper.make_node("Softmax", ["b"], ["y"], axis=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [1, 2, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2, 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if off:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        return str(error)
    return "runs"


print(f"onnxruntime {ort.__version__}")
found = {20: tries(20), 21: tries(21), "21, disable_quant_qdq": tries(21, off=True)}
for opset, said in found.items():
    print(f"opset {opset}: {said}")
assert "output_dtype INT8 does not match y_zero_point type UINT8" in found[21]
assert found[20] == found["21, disable_quant_qdq"] == "runs"
PYTHON
