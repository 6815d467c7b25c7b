"""What an operator costs on the host and on the device, and what it costs to go from one to the
other: enough to tell what is worth a round trip, and no more.

The constants are those of ``bench/crossing.py``, rounded. Its round trip is that of the emulator,
half a millisecond, most of which two processes take to wake each other; a card's is shorter.
"""

from __future__ import annotations

import math
from typing import Final

from edged.compiler._graph import Graph, Node
from edged.compiler._macs import macs

__all__ = ["crossing", "on_device", "on_host"]

_PICOSECONDS: Final = 1e12
_HOST_MACS: Final = 30e9
"""A second, of one thread in float32: 60e9 with AVX-512, half as many with AVX2."""

_HOST_ELEMENT: Final = 0.6e-9
"""Seconds for each element that an operator reads or writes: 0.3 ns for a sigmoid, more where lines
of memory are not read in their order. Not less than an element takes to cross: so nothing is kept
from the device for having the smaller input."""

_DEVICE_MACS: Final = 256e9
"""A second: half of what the default array does at 250 MHz, since few layers fill it."""

_DEVICE_ELEMENT: Final = 0.06e-9
"""Seconds: a byte at 17 GB/s."""

_CROSSING_ELEMENT: Final = 0.5e-9
"""Seconds: to quantise it and to bring it into the device's order, or back."""

_CROSSING: Final = 100e-6
"""Seconds for each tensor: there and back is 0.2 ms for a segment with one input and one output."""


def on_host(graph: Graph, node: Node) -> int:
    """Picoseconds of *node* there."""
    seconds = _elements(graph, node) * _HOST_ELEMENT + (macs(graph, node) or 0) / _HOST_MACS
    return round(seconds * _PICOSECONDS)


def on_device(graph: Graph, node: Node) -> int:
    """Picoseconds of *node* there."""
    seconds = _elements(graph, node) * _DEVICE_ELEMENT + (macs(graph, node) or 0) / _DEVICE_MACS
    return round(seconds * _PICOSECONDS)


def crossing(graph: Graph, name: str) -> int:
    """Picoseconds to bring a value from host to device, or back."""
    return round((_CROSSING + _size(graph, name) * _CROSSING_ELEMENT) * _PICOSECONDS)


def _elements(graph: Graph, node: Node) -> int:
    return sum(_size(graph, name) for name in (*graph.operands(node), *node.outputs) if name)


def _size(graph: Graph, name: str) -> int:
    """Elements of a value; 0 where they are not known before the run."""
    shape = graph.values[name].shape if name in graph.values else None
    return math.prod(shape) if shape is not None else 0
