"""What the rules of placement give: a kernel of the device, or the limit that was not met."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.compiler._layout import Shape3
from edged.compiler._tables import Function
from edged.npu import Loop, Op

__all__ = ["Kernel", "Limit", "Move", "NotOnDevice", "Window"]


class NotOnDevice(Exception):  # noqa: N818  (an answer, not an error: the host takes the operator)
    """Why an operator stays on the host."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A condition for an operator to run on the device: docs/operators.md lists them.

    Attributes:
        wanted: the condition, in a sentence.
        refusal: what is said where it is not met, behind the operator's name; {words} in braces are
            filled in by whoever raises it.
    """

    wanted: str
    refusal: str

    def __call__(self, **found: object) -> NotOnDevice:
        """The answer to raise."""
        return NotOnDevice(self.refusal.format(**found))


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a convolution or pool; pairs are (vertical, horizontal)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def over(self, height: int, width: int) -> tuple[int, int]:
        """The size of what comes out of *height* × *width*."""
        top, left, bottom, right = self.pad
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        return (
            (height + top + bottom - reach[0]) // self.stride[0] + 1,
            (width + left + right - reach[1]) // self.stride[1] + 1,
        )


@dataclass(frozen=True, slots=True)
class Move:
    """A part of what a COPY writes.

    Attributes:
        source: position among the kernel's inputs; None: zeros are written.
        source_start, target_start, loops: as a layer has them.
    """

    source: int | None
    source_start: int
    target_start: int
    loops: tuple[Loop, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """What gives a tensor of the device, before its numbers are integers.

    It becomes one layer; a COPY, or a CONV of several phases, a layer for each part of the tensor.

    Attributes:
        inputs, output: names of float values; each is one device tensor.
        plane: (H, W, C) of the output.
        weights: CONV: float [C_out, kh, kw, C_in / groups].
        bias: CONV: float [C_out].
        depth: MATMUL: how many products each element of the output sums up.
        function: TABLE: what it computes, one function or one for each channel.
        phases: CONV: every how-many-th row and column of the output one layer writes. In each
            group, weights and biases of the layers for (0, 0), (0, 1), … follow one another. The
            window is that of the first.
        lo, hi: bounds of the result: ReLU and ReLU6 are made of these.
        moves: COPY: its parts.
        between: the limit that is not met where no layer of the device gives one of its inputs, or
            none reads its output; None: it need not stand between layers.
    """

    op: Op
    name: str
    inputs: tuple[str, ...]
    output: str
    plane: Shape3
    window: Window = Window()
    groups: int = 1
    weights: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None
    depth: int = 0
    function: Function | None = None
    phases: tuple[int, int] = (1, 1)
    lo: float = -math.inf
    hi: float = math.inf
    moves: tuple[Move, ...] = ()
    between: Limit | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        h, w, c = self.plane
        if self.weights is None:
            return h * w * c * self.depth
        return h * w * int(self.weights.size) // math.prod(self.phases)
