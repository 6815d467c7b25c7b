"""The compiler: from an ONNX file to a program for the device and the host's parts around it.

A compiled model is a folder. The container runs the host's first part, the first entry of the
program, the host's second part, and so on to the host's last one, a sample at a time
(:mod:`edged._pipeline`):

``program.img``
    the program image (:mod:`edged.npu`);
``host-0.onnx``, ``host-1.onnx``, …
    the first from the model's inputs, by their names, the others from what came before, to the
    inputs of the entry behind it: one output for each, named as the image names the tensor, u8 or
    s8 [1, H, W, C]; and what later parts need besides. The last gives the model's outputs by their
    names. The first one is called the prologue, and the last one the epilogue;
``report.json``
    every layer, every operator of the host with the reason, and remarks
    (:class:`Report` says what the keys are);
``remarks.json``
    the remarks alone, for the daemon (:mod:`edged.remarks`).

``python -m edged.compiler`` does the same for a folder, in a process that can be confined.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edged.compiler._version import COMPILER_VERSION

if TYPE_CHECKING:
    from edged.compiler._calibrate import Samples
    from edged.compiler._compile import CompiledModel, Progress, compile_model
    from edged.compiler._import import FEATURES_KEY
    from edged.compiler._report import HostRow, LayerRow, OutputRow, Report
    from edged.compiler._survey import Survey, survey
    from edged.compiler._techniques import Techniques

__all__ = [
    "COMPILER_VERSION",
    "FEATURES_KEY",
    "CompiledModel",
    "HostRow",
    "LayerRow",
    "OutputRow",
    "Progress",
    "Report",
    "Samples",
    "Survey",
    "Techniques",
    "compile_model",
    "survey",
]

_HOMES = {
    "FEATURES_KEY": "_import",
    "Samples": "_calibrate",
    "HostRow": "_report",
    "LayerRow": "_report",
    "OutputRow": "_report",
    "Report": "_report",
    "Survey": "_survey",
    "Techniques": "_techniques",
    "survey": "_survey",
}


def __getattr__(name: str) -> object:
    """Import on first use: the daemon wants the version alone, not onnx and ONNX Runtime."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"edged.compiler.{_HOMES.get(name, '_compile')}"), name)
