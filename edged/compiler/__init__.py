"""The compiler: from an ONNX file to a program for the device and the host's parts around it.

A compiled model is a folder that the container runs as
``epilogue(device(prologue(inputs)))``, one sample at a time:

``program.img``
    the program image (:mod:`edged.npu`);
``prologue.onnx``
    from the model's inputs, by their names, to the device's inputs: one output for each, named as
    the image names the tensor, u8 or s8 [1, H, W, C]; and what the epilogue needs besides;
``epilogue.onnx``
    from the device's outputs, likewise, to the model's outputs by their names;
``report.json``
    every layer, every operator of the host with the reason, and warnings
    (:class:`Report` says what the keys are).

``python -m edged.compiler`` does the same for a folder, in a process that can be confined.
"""

from edged.compiler._calibrate import Samples
from edged.compiler._compile import COMPILER_VERSION, CompiledModel, Progress, compile_model
from edged.compiler._report import HostRow, LayerRow, Report

__all__ = [
    "COMPILER_VERSION",
    "CompiledModel",
    "HostRow",
    "LayerRow",
    "Progress",
    "Report",
    "Samples",
    "compile_model",
]
