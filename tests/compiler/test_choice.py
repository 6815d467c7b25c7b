"""What is worth the device: the cheapest cut, and that more operators never lower the share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from compiler.pipeline import Pipeline, make_model, node
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edged import _pipeline
from edged.compiler import compile_model
from edged.compiler._candidates import candidates
from edged.compiler._choose import chosen
from edged.compiler._fold import fold
from edged.compiler._graph import Graph
from edged.compiler._import import load_graph
from edged.compiler._mincut import Cut
from edged.compiler._partition import partition, segment_macs
from edged.errors import ModelError
from edged.npu import Entry, ProgramImage, numerics

_RNG = np.random.default_rng(3)
_CONSTANTS = {
    "w": _RNG.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
    "v": _RNG.normal(0, 0.2, (8, 8, 1, 1)).astype(np.float32),
    "count": np.array([1, 8, -1, 4]),
}
_UNKNOWN = ("Softmax", "LpNormalization")


@given(st.data())
@settings(max_examples=200)
def test_the_cut_is_the_cheapest_and_of_these_the_one_with_most_on_the_sources_side(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 5))
    vertices = range(2, 2 + count)
    pairs = [(a, b) for a in (0, *vertices) for b in (1, *vertices) if a != b]
    capacities = data.draw(st.lists(st.integers(0, 4), min_size=len(pairs), max_size=len(pairs)))
    network = Cut()
    assert [network.vertex() for _ in vertices] == list(vertices)
    for (a, b), capacity in zip(pairs, capacities, strict=True):
        network.edge(a, b, capacity)

    def cost(side: set[int]) -> int:
        return sum(
            capacity
            for (a, b), capacity in zip(pairs, capacities, strict=True)
            if a in side and b not in side
        )

    sides = [
        {0, *some} for size in range(count + 1) for some in itertools.combinations(vertices, size)
    ]
    least = min(map(cost, sides))
    largest = max((side for side in sides if cost(side) == least), key=len)
    assert network.source_side() == largest


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Convolutions of two sizes, joined by what the device has and what it has not."""
    shapes = {"x": 16}
    nodes: list[onnx.NodeProto] = []
    for number in range(draw(st.integers(2, 12))):
        source = draw(st.sampled_from(sorted(shapes)))
        name, size = f"n{number}", shapes[source]
        same = sorted(other for other in shapes if shapes[other] == size)
        kinds = ["Conv", "Conv1", "Relu", "Add", "Mul", "Reshape", *_UNKNOWN]
        kind = draw(st.sampled_from([*kinds, *(["MaxPool"] if size > 4 else [])]))
        attributes: dict[str, Any] = {}
        if kind == "Conv":
            nodes.append(node("Conv", f"{source} w", name, pads=[1] * 4))
        elif kind == "Conv1":
            nodes.append(node("Conv", f"{source} v", name))
        elif kind in ("Add", "Mul"):
            nodes.append(node(kind, f"{source} {draw(st.sampled_from(same))}", name))
        elif kind == "Reshape":  # Seen as another shape and back, which the device may not follow.
            nodes.append(node("Reshape", f"{source} count", name))
            size = shapes[source]
        else:
            if kind == "MaxPool":
                attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
                size //= 2
            nodes.append(node(kind, source, name, **attributes))
        if kind != "Reshape":
            shapes[name] = size
        elif draw(st.booleans()):
            nodes.append(node("Conv", f"{name} v", f"{name}c"))
    read = {name for each in nodes for name in each.input}
    outputs = [name for each in nodes for name in each.output if name not in read]
    return make_model(nodes, {"x": ["N", 8, 16, 16]}, outputs, _CONSTANTS)


def graphs() -> st.SearchStrategy[Graph]:
    return models().map(lambda model: fold(load_graph(model)))


@given(
    graphs(), st.sets(st.sampled_from(["Softmax", "LpNormalization", "Mul", "Reshape"])), st.data()
)
@settings(max_examples=150, deadline=None)
def test_more_operators_never_lower_the_share(
    graph: Graph, some: set[str], data: st.DataObject
) -> None:
    more = some | data.draw(
        st.sets(st.sampled_from(["Softmax", "LpNormalization", "Mul", "Reshape"]))
    )
    assert segment_macs(graph, some) <= segment_macs(graph, more)


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_no_run_is_for_what_multiplies_nothing(graph: Graph) -> None:
    try:
        work = [sum(kernel.macs for kernel in s.kernels) for s in partition(graph).segments]
    except ModelError:
        assume(False)
    assert all(work) or not any(work)


@given(models())
@settings(max_examples=25, deadline=None)
def test_what_is_alive_keeps_its_place_in_the_dram(model: bytes) -> None:
    """Each entry on memory of its own that is full of noise, layer by layer where tensors are."""
    try:
        compiled = compile_model(model)
    except ModelError:
        assume(False)
    x = np.random.default_rng(0).normal(0, 1, (1, 8, 16, 16)).astype(np.float32)
    found = _pipeline.Pipeline(compiled.image, compiled.host).run(
        {"x": x}, lambda entry, inputs: in_dram(compiled.image, entry, inputs)
    )
    for name, wanted in Pipeline(compiled)({"x": x}).items():
        np.testing.assert_array_equal(found[name], wanted)


def in_dram(image: ProgramImage, entry: int, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run it as a device has to: nothing is anywhere but at the address of its tensor."""
    memory = np.random.default_rng(1).integers(0, 256, image.dram_bytes, np.uint8)

    def at(index: int) -> np.ndarray:
        tensor = image.tensors[index]
        data = memory[tensor.address : tensor.address + tensor.nbytes]
        return data.view(tensor.dtype.numpy).reshape(tensor.shape)

    program = image.entries[entry]
    for index, value in zip(program.inputs, inputs, strict=True):
        at(index)[...] = value[0]
    for layer in program.layers:
        alone = replace(image, entries=(Entry((layer,), layer.inputs, (layer.output,)),))
        (given,) = numerics.run(alone, [at(index).copy() for index in layer.inputs])
        if layer.in_part:
            layer.written(at(layer.output))[...] = layer.written(given)
        else:
            at(layer.output)[...] = given
    return [at(index).copy()[None] for index in program.outputs]


def test_a_small_layer_behind_an_operator_of_the_host_is_not_worth_a_round_trip() -> None:
    nodes = [
        node("Conv", "x w", "a", pads=[1] * 4),
        node("MaxPool", "a", "p", kernel_shape=[4, 4], strides=[4, 4]),
        node("Softmax", "p", "s", axis=1),
        node("Conv", "s w", "y", pads=[1] * 4),
    ]
    cut = partition(fold(load_graph(make_model(nodes, {"x": ["N", 8, 16, 16]}, ["y"], _CONSTANTS))))
    assert len(cut.segments) == 1
    assert [(each.node.op, each.where) for each in cut.host] == [
        ("Softmax", "epilogue"),
        ("Conv", "epilogue"),
    ]
    assert "not worth" in cut.host[1].reason


def test_a_layer_with_much_work_is() -> None:
    """The same layers on a larger image: a millisecond of work against a tenth of one."""
    nodes = [
        *(
            node("Conv", f"{'x' if n == 0 else f'a{n - 1}'} w", f"a{n}", pads=[1] * 4)
            for n in range(9)
        ),
        node("Softmax", "a8", "s", axis=1),
        node("Conv", "s w", "y", pads=[1] * 4),
    ]
    model = make_model(nodes, {"x": ["N", 8, 256, 256]}, ["y"], _CONSTANTS)
    cut = partition(fold(load_graph(model)))
    assert [len(segment.kernels) for segment in cut.segments] == [9, 1]


def test_what_only_feeds_the_host_stays_with_it() -> None:
    """A sum on the host's side of a sigmoid would have to come and go for nothing."""
    nodes = [
        node("Conv", "x w", "a", pads=[1] * 4),
        node("LpNormalization", "a", "e"),
        node("Add", "e e", "y"),
    ]
    graph = fold(load_graph(make_model(nodes, {"x": ["N", 8, 16, 16]}, ["y"], _CONSTANTS)))
    assert chosen(graph, candidates(graph)) == {"a"}
