"""What a model hands on from one call to the next, as its manifest names it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

if TYPE_CHECKING:
    from edged.bundle._manifest import TensorDecl

__all__ = ["State", "StatePair"]

_MAX_SEQUENCES: Final = 4096
_MAX_IDLE_SECONDS: Final = 24 * 3600
_MAX_BYTES: Final = 256 << 20


class StatePair(Struct, frozen=True, forbid_unknown_fields=True):
    """A recurrent state: the output of one step that is the input of the next.

    Attributes:
        input, output: names of tensors of the model.
    """

    input: str
    output: str


class State(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept for each sequence of calls, so that clients need not send it.

    Attributes:
        pairs: the tensors. Each begins with zeros.
        sequences: how many are kept at a time; 1 to 4096.
        idle_seconds: a sequence that nobody calls for longer is dropped; 1 s to a day.
    """

    pairs: tuple[StatePair, ...]
    sequences: int = 256
    idle_seconds: float = 60

    @property
    def outputs(self) -> dict[str, str]:
        """Name of the input → name of the output."""
        return {pair.input: pair.output for pair in self.pairs}

    def zeros(self, inputs: Iterable[TensorDecl]) -> dict[str, npt.NDArray[Any]]:
        """What a sequence begins with: each of *inputs* that is in the state, batch 1."""
        return {
            tensor.name: np.zeros([size or 1 for size in tensor.shape], str(tensor.dtype))
            for tensor in inputs
            if tensor.name in self.outputs
        }

    def after(self, outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The inputs that a step which gave *outputs* hands on to the next."""
        return {pair.input: outputs[pair.output] for pair in self.pairs}

    def misfit(self, inputs: Sequence[TensorDecl], outputs: Sequence[TensorDecl]) -> str:
        """Why it does not fit a model with these tensors, or is out of bounds; "" if it does."""
        if not 1 <= self.sequences <= _MAX_SEQUENCES:
            return f"edged.state.sequences: found {self.sequences}; wanted 1 to {_MAX_SEQUENCES}"
        if not 1 <= self.idle_seconds <= _MAX_IDLE_SECONDS:
            return (
                f"edged.state.idle_seconds: found {self.idle_seconds:g}; wanted 1 to"
                f" {_MAX_IDLE_SECONDS}"
            )
        if not self.pairs:
            return "edged.state.pairs: found none; wanted an input and an output for each state"
        if problem := (
            _unknown("input", [pair.input for pair in self.pairs], inputs)
            or _unknown("output", [pair.output for pair in self.pairs], outputs)
        ):
            return problem
        if len(self.pairs) == len(inputs):
            return "edged.state.pairs: every input is a state; wanted one that a call sends"
        before = {tensor.name: tensor for tensor in inputs}
        after = {tensor.name: tensor for tensor in outputs}
        size = 0
        for pair in self.pairs:
            source, target = after[pair.output], before[pair.input]
            batched = all(t.shape[:1] in ((None,), (1,)) for t in (source, target))
            same = (source.dtype, source.shape[1:]) == (target.dtype, target.shape[1:])
            if not (batched and same) or None in target.shape[1:]:
                return (
                    f"edged.state.pairs: output {source.name!r} is {source.dtype}"
                    f" {_written(source)}, input {target.name!r} is {target.dtype}"
                    f" {_written(target)}; wanted the same, the batch first and every other size"
                    " fixed"
                )
            sizes = (size for size in target.shape[1:] if size is not None)
            size += math.prod(sizes) * np.dtype(str(target.dtype)).itemsize
        if size * self.sequences > _MAX_BYTES:
            return (
                f"edged.state.sequences: {self.sequences} states of {size} bytes take more than"
                f" {_MAX_BYTES}; wanted at most {_MAX_BYTES // size} of them"
            )
        return ""


def _unknown(kind: str, names: Sequence[str], tensors: Iterable[TensorDecl]) -> str:
    there = [tensor.name for tensor in tensors]
    for index, name in enumerate(names):
        if name not in there:
            listed = ", ".join(map(repr, there))
            return f"edged.state.pairs: there is no {kind} {name!r}; there are {listed}"
        if name in names[:index]:
            return f"edged.state.pairs: the {kind} {name!r} is there twice"
    return ""


def _written(tensor: TensorDecl) -> str:
    return f"[{', '.join('N' if size is None else str(size) for size in tensor.shape)}]"
