"""What the compiler's cost model takes for granted: ``edged/compiler/_cost.py`` has the figures.

python bench/crossing.py

Times a convolution, a sigmoid, both ways across the border between host and device, and a round
trip of a program that computes next to nothing, each on one thread of this machine. The smallest of
many runs counts: what else the machine does makes them longer, never shorter.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edged._onnxruntime import session
from edged.device import Device, InferenceQueue, vfio_user
from edged.npu import (
    Array,
    DType,
    Entry,
    Layer,
    Op,
    ProgramImage,
    Tensor,
    parse_image,
    serialize_image,
)

SHAPE = (1, 64, 56, 56)
RUNS = 60


def main() -> None:
    elements = int(np.prod(SHAPE))
    weights = np.ones((64, 64, 3, 3), np.float32)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    seconds = timed([conv], {"w": weights}, np.float32)
    print(f"host, multiply-accumulates:  {weights.size * 56 * 56 / seconds / 1e9:.1f} G/s")
    seconds = timed([helper.make_node("Sigmoid", ["x"], ["y"])], {}, np.float32)
    print(f"host, elements in and out:   {seconds / elements / 2 * 1e9:.2f} ns")
    constants = {"scale": np.float32(0.1), "zero": np.int8(0)}
    into = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("Transpose", ["q"], ["y"], perm=[0, 2, 3, 1]),
    ]
    out_of = [
        helper.make_node("Transpose", ["x"], ["q"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    for what, nodes, dtype in (("into", into, np.float32), ("out of", out_of, np.int8)):
        seconds = timed(nodes, constants, dtype)
        print(
            f"crossing {what} the device:".ljust(29)
            + f"{seconds / elements * 1e9:.2f} ns an element"
        )
    print(f"round trip:                  {round_trip() * 1e6:.0f} us")


def timed(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray | np.generic], dtype: type
) -> float:
    """Seconds of the fastest run of a graph from x to y."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, SHAPE)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = session(model.SerializeToString())
    x = np.random.default_rng(0).normal(0, 3, SHAPE).astype(dtype)
    return fastest(lambda: made.run(None, {"x": x}))


def round_trip() -> float:
    """Seconds of a run of one addition of 64 elements, through the emulator's socket."""
    tensors = tuple(Tensor(name, DType.U8, (1, 1, 64), 0, 64 * at) for at, name in enumerate("xy"))
    layer = Layer(Op.ADD, "sum", (0, 0), 1, lefts=(0, 0), rights=(0, 0))
    image = ProgramImage(Array(), tensors, (Entry((layer,), (0,), (1,)),), 1 << 16)
    data = serialize_image(image)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "npu.sock")
        command = [sys.executable, "-m", "edged.emulator", "--socket", str(path)]
        with subprocess.Popen(command) as emulator:
            try:
                while not path.exists():
                    time.sleep(0.05)
                device = Device.open(vfio_user.VfioUserTransport(vfio_user.connect(path)))
                device.load(data, 0)
                device.activate(0)
                queue = InferenceQueue(
                    vfio_user.VfioUserTransport(vfio_user.connect(path)), parse_image(data)
                )
                x = np.ones((1, 1, 64), np.uint8)
                return fastest(lambda: queue.run([x]))
            finally:
                emulator.terminate()


def fastest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


if __name__ == "__main__":
    main()
