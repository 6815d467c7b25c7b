"""The tensors of an answer, and which of them a caller meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from edged import wire
from edged.errors import EdgedError, InputError, RequestError
from edged.wire import inference

__all__ = ["Array", "Outputs", "Score", "read_labels", "read_outputs"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of one input.

    Attributes:
        output: the name of the output, as the server gave it.
        values: its values without the batch, such as [classes].
    """

    output: str
    values: Array

    def top(self, count: int) -> list[int]:
        """The indices of the *count* largest values, the largest first."""
        flat = self.values.reshape(-1)
        return [int(index) for index in np.argsort(-flat, kind="stable")[:count]]


class Outputs(dict[str, Array]):
    """Output name → [N, …], in the order of the names: a map on the wire has none."""

    def pick(self, wanted: str | None) -> str:
        """The name of the output that is meant; ``None`` means the only one.

        Raises:
            RequestError: there is none of that name, or several; says which there are.
        """
        if wanted is None and len(self) == 1:
            return next(iter(self))
        if wanted in self:
            return str(wanted)
        there = ", ".join(map(repr, self)) or "none"
        said = "no output was named" if wanted is None else f"there is no output {wanted!r}"
        raise RequestError(f"cannot pick an output: {said}; the server answers with {there}")

    def select(self, wanted: str | Sequence[str] | None) -> Array | list[Array]:
        """As the original client answers: an array for a name, a list for names in their order.

        For ``None`` (or nothing in it) the array of the only output, or the list of all.

        Raises:
            RequestError: a name that is not there; says which are.
        """
        if not wanted:
            arrays = list(self.values())
            return arrays[0] if len(arrays) == 1 else arrays
        if isinstance(wanted, str):
            return self[self.pick(wanted)]
        return [self[self.pick(name)] for name in wanted]

    def without_batch(self) -> Outputs:
        """The only sample of each output: [1, …] becomes […].

        Raises:
            RequestError: an output that has no batch of one first.
        """
        for name, values in self.items():
            if values.shape[:1] != (1,):
                raise RequestError(
                    f"cannot take one sample from output {name!r} of shape {list(values.shape)}:"
                    " wanted a batch of 1 first"
                )
        return Outputs((name, values[0]) for name, values in self.items())

    def scores(self, count: int, wanted: str | None) -> list[Score]:
        """One score for each of *count* samples.

        Raises:
            RequestError: as `pick`, or the output's batch is not *count*.
        """
        name = self.pick(wanted)
        values = self[name]
        if values.shape[:1] != (count,):
            raise RequestError(
                f"cannot tell the scores apart: {count} images gave output {name!r} of shape"
                f" {list(values.shape)}; wanted the batch first"
            )
        return [Score(name, row) for row in values]


def read_labels(data: bytes, address: str) -> list[str]:
    """The labels in the bytes of a ModelConfigResponse; none where it has none.

    Raises:
        EdgedError: they cannot be read.
    """
    try:
        config = inference.ModelConfigResponse.FromString(data).config
    except DecodeError as error:
        raise EdgedError(f"cannot read the answer of {address}: {error}") from error
    if inference.LABELS_PARAMETER not in config.parameters:
        return []
    return config.parameters[inference.LABELS_PARAMETER].string_value.split("\n")


def read_outputs(data: bytes, address: str) -> Outputs:
    """The outputs in the bytes of a PredictResponse.

    Raises:
        EdgedError: they cannot be read.
    """
    try:
        response = wire.PredictResponse.FromString(data)
        return Outputs((name, _array(name, response)) for name in sorted(response.outputs))
    except (DecodeError, InputError) as error:
        raise EdgedError(f"cannot read the answer of {address}: {error}") from error


def _array(name: str, response: wire.PredictResponse) -> Array:
    tensor = response.outputs[name]
    value = wire.to_array(tensor, name=name)
    if isinstance(value, np.ndarray):
        return value
    # Strings as objects: numpy's own strings lose zero bytes at their end.
    strings = np.empty(len(value), object)
    strings[:] = value
    return strings.reshape(wire.shape_of(tensor, name=name))
