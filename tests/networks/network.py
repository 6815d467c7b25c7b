"""What is known of a network that is tried: its inputs, how its answers are read and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from edged._onnxruntime import session

__all__ = ["Answers", "Arrays", "Cases", "Judged", "Network", "float_run"]

Arrays = Mapping[str, npt.NDArray[Any]]

Cases = Mapping[str, Arrays]
"""Inputs of one run, or outputs, by the name of the case: a picture, for instance."""

Answers = Mapping[str, Any]
"""What the outputs say, as `expected/` of tests/data/networks has it: JSON, by case."""


@dataclass(frozen=True)
class Judged:
    """The device's answers beside float's.

    Attributes:
        found: in words.
        met: whether they are what was aimed at.
    """

    found: str
    met: bool


@dataclass(frozen=True)
class Network:
    """A network that is tried.

    Attributes:
        name: of the network, and of its file without the suffix.
        aim: what its answers are to be, in words.
        model: the ONNX file.
        cases: inputs that are judged.
        read: from the outputs of all cases to answers.
        judge: compares float's answers, the first, with the device's.
        calibration: typical inputs, name → [N, …]; none of them is judged unless
            *calibrated_with* says so.
        calibrated_with: what these are, in words.
        quantised: whether the file has quantisers; the float model that it stands for is judged
            beside the device then.
        today: whether it is one of the fourteen that people put on edge boxes today.
        shapes: of inputs that the model leaves open.
        state: outputs that are the inputs of the next case: output → input.
    """

    name: str
    aim: str
    model: Callable[[], bytes]
    cases: Callable[[], Cases]
    read: Callable[[Cases], Answers]
    judge: Callable[[Answers, Answers], Judged]
    calibration: Callable[[], Arrays]
    calibrated_with: str
    quantised: bool = False
    today: bool = True
    shapes: Mapping[str, Sequence[int]] | None = None
    state: Mapping[str, str] = field(default_factory=dict)

    def outputs(self, run: Callable[[Arrays], Arrays], cases: Cases) -> Cases:
        """What *run* gives for each of *cases*, in their order, with the state handed on."""
        handed: dict[str, npt.NDArray[Any]] = {}
        found = {}
        for name, inputs in cases.items():
            found[name] = run({**inputs, **handed})
            handed = {given: found[name][output] for output, given in self.state.items()}
        return found


def float_run(model: bytes) -> Callable[[Arrays], Arrays]:
    """Runs *model* with each operator as it is written: what the device is compared with."""
    float_ = session(model, as_written=True)
    names = [output.name for output in float_.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, float_.run(names, dict(inputs)), strict=True))

    return run
