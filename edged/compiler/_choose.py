"""Which of the operators that the device could run it does run: those worth the way there and back.

The cheapest cut of the graph between host and device is found, with what
:mod:`edged.compiler._cost` says that operators and crossings take. A cheapest cut has a property
that users count on: with more operators that the device could run, it runs all that it ran before.

A network that is small beside a round trip is on the device all the same, since that is what it was
given to the box for: each connected part of what the device could run that has a tenth of the
network's multiply-accumulates stays there; where none has, the largest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from edged.compiler._candidates import Candidate
from edged.compiler._cost import crossing, on_device, on_host
from edged.compiler._graph import Graph
from edged.compiler._macs import macs
from edged.compiler._mincut import UNBOUNDED, Cut

__all__ = ["chosen"]

_ALWAYS: Final = 0.1


def chosen(graph: Graph, found: Sequence[Candidate]) -> set[str]:
    """The first outputs of the nodes among *found* that are to be on the device."""
    parts = [part for part in _connected(graph, found) if any(_computes(c) for c in part)]
    work = [sum(c.macs(graph) for c in part) for part in parts]
    behind = _behind_features(graph)
    total = sum(macs(graph, c.node) or 0 for c in found if behind.isdisjoint((c.node.output,)))
    held = [
        c
        for part, amount in zip(parts, work, strict=True)
        if amount and amount >= _ALWAYS * total
        for c in part
        if c.macs(graph)
    ]
    device = _cheapest(graph, found, held)
    if parts and not any(c.macs(graph) for c in found if c.node.output in device):
        # As many multiply-accumulates, or as many layers where there are none of these.
        sizes = [
            (amount, sum(map(_computes, part))) for part, amount in zip(parts, work, strict=True)
        ]
        largest = parts[max(range(len(parts)), key=lambda at: (sizes[at], -at))]
        held = [c for c in largest if c.macs(graph)] or [c for c in largest if _computes(c)]
        device = _cheapest(graph, found, held)
    return device


def _computes(candidate: Candidate) -> bool:
    return candidate.kernel is not None or candidate.supposed


def _behind_features(graph: Graph) -> set[str]:
    """What is computed from the value that the device's part ends at."""
    behind = {graph.features} if graph.features else set()
    for node in graph.nodes:
        if not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
    return behind - {graph.features}


def _connected(graph: Graph, found: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates that are, or could be, on the device, in parts that no value connects."""
    part_of: dict[str, list[Candidate]] = {}
    for candidate in found:
        if not candidate.on_device:
            continue
        joined = {id(part_of[n]): part_of[n] for n in candidate.node.inputs if n in part_of}
        whole = [candidate, *(c for part in joined.values() for c in part)]
        part_of |= {name: whole for c in whole for name in c.node.outputs}
    return list({id(part): part for part in part_of.values()}.values())


def _cheapest(graph: Graph, found: Sequence[Candidate], held: Iterable[Candidate]) -> set[str]:
    """The cheapest cut: what is on the device's side, which has all of *held* in it.

    Each node is a vertex; being on the source's side means to be on the device. A value that
    crosses is paid for once, however many read it: so it has two vertices more, one for each way.
    """
    network = Cut()
    vertices = {id(c): network.vertex() for c in found}
    for candidate in found:
        vertex = vertices[id(candidate)]
        network.edge(network.SOURCE, vertex, on_host(graph, candidate.node))
        cost = on_device(graph, candidate.node) if candidate.on_device else UNBOUNDED
        network.edge(vertex, network.SINK, cost)
    for candidate in held:
        network.edge(network.SOURCE, vertices[id(candidate)], UNBOUNDED)
    readers: dict[str, list[int]] = {name: [network.SINK] for name in graph.outputs}
    for candidate in found:
        for name in graph.operands(candidate.node):
            readers.setdefault(name, []).append(vertices[id(candidate)])
    producers = dict.fromkeys(graph.inputs, network.SINK)
    producers |= {name: vertices[id(c)] for c in found for name in c.node.outputs}
    for name, reading in readers.items():
        producer = producers.get(name)
        if producer is None:  # A constant that is an output.
            continue
        cost = crossing(graph, name)
        back, there = network.vertex(), network.vertex()
        network.edge(producer, back, cost)
        network.edge(there, producer, cost)
        for reader in reading:
            network.edge(back, reader, UNBOUNDED)
            network.edge(reader, there, UNBOUNDED)
    side = network.source_side()
    return {c.node.output for c in found if vertices[id(c)] in side and c.on_device}
