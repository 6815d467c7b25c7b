"""Small ONNX models, and running compiled ones through the integer reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged._onnxruntime import InferenceSession, session
from edged.compiler import CompiledModel
from edged.emulator import Executor, exact_weight_encodings
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
        make: what makes the host's sessions.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        *,
        fast: bool = False,
        make: Callable[[bytes], InferenceSession] = session,
    ) -> None:
        self._image = compiled.image
        self._run: Callable[[Sequence[npt.NDArray[Any]]], list[npt.NDArray[Any]]]
        self._run = functools.partial(numerics.run, compiled.image)
        if fast:
            self._run = Executor(compiled.image, weights=exact_weight_encodings()).run
        self._prologue = make(compiled.prologue)
        self._epilogue = make(compiled.epilogue)

    def __call__(self, inputs: Arrays) -> Arrays:
        names = [output.name for output in self._prologue.get_outputs()]
        values = dict(zip(names, self._prologue.run(names, inputs), strict=True))
        given = [values.pop(tensor.name)[0] for tensor in self._image.input_tensors]
        results = self._run(given)
        for tensor, result in zip(self._image.output_tensors, results, strict=True):
            values[tensor.name] = result[None]
        names = [output.name for output in self._epilogue.get_outputs()]
        return dict(zip(names, self._epilogue.run(names, values), strict=True))
