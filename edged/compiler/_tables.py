"""The values of a function of one tensor, computed by the operators that it consists of."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edged.compiler._graph import Graph, Node, Value, onnx_bytes
from edged.compiler._session import FloatSession

__all__ = ["Function"]

_Float = npt.NDArray[np.float64]


class Function:
    """A function of one number, or one for each channel."""

    def __init__(
        self,
        graph: Graph,
        node: Node,
        axis: int = 0,
        order: Sequence[int] = (0,),
        before: float = 1.0,
        after: float = 1.0,
    ) -> None:
        """The function that *node* computes from its one computed input.

        Args:
            axis: of the value, along which the channels lie.
            order: its index for each channel of the device; one entry if all channels have one
                function.
            before, after: what its argument is divided by, and its value multiplied.
        """
        self._graph = graph
        self._node = node
        self._axis = axis
        self._order = list(order)
        self._before = before
        self._after = after

    def __call__(self, numbers: npt.ArrayLike) -> _Float:
        """Its values at *numbers*, [N] → [channels, N]; what is not a number is 0.

        Raises:
            ModelError: ONNX Runtime lacks one of its operators.
        """
        given = (np.asarray(numbers, np.float64) / self._before).astype(np.float32)
        (source,) = self._graph.operands(self._node)
        shape = [len(given), *(1,) * (len(self._graph.shape(source)) - 1)]
        feed = given.reshape(shape)
        if self._axis:
            shape[self._axis] = len(self._order)
            feed = np.ascontiguousarray(np.broadcast_to(feed, shape))
        (found,) = self._session.run({source: feed})
        values = found.reshape(len(given), -1).T[self._order].astype(np.float64)
        return np.where(np.isnan(values), 0.0, values * self._after)

    def scaled(self, before: float, after: float) -> Function:
        """The same of tensors that are multiplied by *before* and *after*."""
        before, after = self._before * before, self._after * after
        return Function(self._graph, self._node, self._axis, self._order, before, after)

    @functools.cached_property
    def _session(self) -> FloatSession:
        (source,) = self._graph.operands(self._node)
        value = Value(np.dtype(np.float32), None)
        constants = self._graph.constants
        model = onnx_bytes(
            [self._node],
            {name: constants[name] for name in self._node.inputs if name in constants},
            inputs={source: value},
            outputs={self._node.output: value},
            opset=self._graph.opset,
        )
        return FloatSession(model, f"take {self._node.place}")
