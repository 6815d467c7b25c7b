"""Where the elements of an ONNX value stand in a device tensor [H, W, C].

Reshapes and transposes cost nothing on the device: they only change which element of the tensor an
element of the value is. Whoever reads the value next either copes with that (Gemm: the order of its
weights) or cannot be placed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Layout", "Shape3", "entering", "make", "matrix_order"]

Shape3 = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How a value lies in a device tensor.

    Attributes:
        base: the float value that the device tensor stands for.
        plane: the device tensor's (H, W, C).
        shape: of the value.
        order: for each element of the value, its place in the tensor; None when it is the natural
            one: [1, C, H, W] or [1, C] with H = W = 1.
    """

    base: str
    plane: Shape3
    shape: tuple[int, ...]
    order: npt.NDArray[np.int64] | None = None

    def indices(self) -> npt.NDArray[np.int64]:
        """:attr:`order`, written out."""
        return _natural(self.plane, self.shape) if self.order is None else self.order

    def viewed(self, order: npt.NDArray[np.int64]) -> Layout:
        """Another value in the same tensor."""
        return make(self.base, self.plane, order)

    def same_order(self, other: Layout) -> bool:
        """Whether equal places in the two tensors are equal places in the two values."""
        if self.plane != other.plane or self.shape != other.shape:
            return False
        if self.order is None or other.order is None:
            return self.order is other.order
        return np.array_equal(self.order, other.order)

    def is_channels_last(self) -> bool:
        """Whether the value is the plane itself, [1, H, W, C]."""
        return self.shape == (1, *self.plane) and np.array_equal(
            self.indices().reshape(-1), np.arange(self.indices().size)
        )

    def is_matrices(self) -> bool:
        """Whether the value is matrices [1, G, R, C] beside each other: pixels are their rows."""
        if len(self.shape) != 4 or self.plane[2] != self.shape[1] * self.shape[3]:
            return False
        return np.array_equal(self.indices(), matrix_order(self.shape))

    def to_plane(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The elements of *value* as they lie in the tensor, [H, W, C]."""
        if self.order is None:
            return (
                value[0].transpose(1, 2, 0) if len(self.shape) == 4 else value.reshape(self.plane)
            )
        plane = np.empty(value.size, value.dtype)
        plane[self.order.reshape(-1)] = value.reshape(-1)
        return plane.reshape(self.plane)


def make(base: str, plane: Shape3, order: npt.NDArray[np.int64]) -> Layout:
    """The layout with *order*, or the natural one if it is that."""
    h, w, c = plane
    natural = order.shape == (1, c, h, w) or (order.shape == (1, c) and (h, w) == (1, 1))
    if natural and np.array_equal(order, _natural(plane, order.shape)):
        return Layout(base, plane, order.shape)
    return Layout(base, plane, order.shape, order)


def matrix_order(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The order in which matrices [1, G, R, C] are beside each other: rows are pixels."""
    one, groups, rows, columns = shape
    order = np.arange(np.prod(shape), dtype=np.int64).reshape(one, rows, groups, columns)
    return order.transpose(0, 2, 1, 3)


def entering(name: str, shape: tuple[int, ...]) -> Layout | None:
    """How a value of *shape* comes to the device; None when its rank has no place there."""
    if len(shape) == 4:
        return Layout(name, (shape[2], shape[3], shape[1]), shape)
    if len(shape) == 2:
        return Layout(name, (1, 1, shape[1]), shape)
    return None


def _natural(plane: Shape3, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    order = np.arange(np.prod(plane), dtype=np.int64).reshape(plane)
    return order.transpose(2, 0, 1).reshape(shape)
