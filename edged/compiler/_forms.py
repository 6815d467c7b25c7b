"""Other forms of operators, in which the device has them, as exporters write them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edged.compiler._graph import Graph, Names, Node

__all__ = ["with_slices_for_splits"]


def with_slices_for_splits(graph: Graph) -> Graph:
    """Write Split as a Slice for each part."""
    names = Names((*graph.values, *graph.constants))
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        shapes = [graph.values[name].shape for name in node.outputs if name]
        source = graph.values.get(node.operand(0))
        if node.op != "Split" or source is None or source.shape is None or None in shapes:
            nodes.append(node)
            continue
        axis, begin = int(node.attributes.get("axis", 0)) % len(source.shape), 0
        for output, shape in zip(filter(None, node.outputs), shapes, strict=True):
            assert shape is not None
            bounds = {"starts": begin, "ends": begin + shape[axis], "axes": axis}
            inputs = [node.inputs[0]]
            for kind, value in bounds.items():
                inputs.append(names.fresh(f"{output}/{kind}"))
                constants[inputs[-1]] = np.array([value], np.int64)
            nodes.append(Node("Slice", output, tuple(inputs), (output,), {}))
            begin += shape[axis]
    return replace(graph, nodes=tuple(nodes), constants=constants)
