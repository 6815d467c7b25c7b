"""Small ONNX models, and running compiled ones through the integer reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged import _pipeline
from edged._onnxruntime import session
from edged.compiler import CompiledModel
from edged.emulator import in_process
from edged.npu import numerics

Arrays = dict[str, npt.NDArray[Any]]

DATA = Path(__file__).parent.parent / "data"
"""Models and inputs from the field; see the README there."""


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str] | Mapping[str, Sequence[int | str] | None],
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """A model file; a string stands for a symbolic dimension."""
    answers = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, dtype, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in answers.items()],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


def run_float(model: bytes, inputs: Arrays) -> Arrays:
    reference = session(model, as_written=True)
    names = [output.name for output in reference.get_outputs()]
    return dict(zip(names, reference.run(names, inputs), strict=True))


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by spaces."""
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=f"{op}_{outputs}", **attributes
    )


class Pipeline:
    """A compiled model as a container runs it, with the reference for a device.

    Args:
        fast: the emulator's executor instead, which gives the same.
    """

    def __init__(self, compiled: CompiledModel, *, fast: bool = False) -> None:
        self._pipeline = _pipeline.Pipeline(compiled.image, compiled.host)
        self._image = compiled.image
        self._run = in_process(compiled.image) if fast else self._reference

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._pipeline.run(inputs, self._run)

    def _reference(self, entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return [out[None] for out in numerics.run(self._image, [each[0] for each in inputs], entry)]


def relative_error(compiled: CompiledModel, model: bytes, samples: Arrays) -> float:
    """Relative, on all samples; the emulator gives what the reference gives."""
    run, fast = Pipeline(compiled), Pipeline(compiled, fast=True)
    noise = signal = 0.0
    for index in range(len(samples["x"])):
        feeds = {"x": samples["x"][index : index + 1]}
        wanted, found = run_float(model, feeds)["y"], run(feeds)["y"]
        np.testing.assert_array_equal(found, fast(feeds)["y"])
        noise += float(((found - wanted) ** 2).sum())
        signal += float((wanted**2).sum())
    return float(np.sqrt(noise / signal))
