"""The cheapest way to cut a graph in two: maximum flow (Dinic, "Algorithm for solution of a problem
of maximum flow in a network with power estimation", 1970).

Of cheapest cuts the one with the largest side of the source is taken. That side has a property
that the compiler builds on: it only grows when what holds a vertex on the other side gets weaker,
or what holds one on this side stronger (Picard and Queyranne, "On the structure of all minimum cuts
in a network", 1980).
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["UNBOUNDED", "Cut"]

UNBOUNDED: Final = 1 << 60
"""A capacity that no cut goes through while there is another."""


class Cut:
    """A network between a source and a sink, whose vertices are numbers."""

    SOURCE: Final = 0
    SINK: Final = 1

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # of each vertex, by their number
        self._target: list[int] = []
        self._capacity: list[int] = []  # what is left of it; edge n ^ 1 leads back

    def vertex(self) -> int:
        """A new vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, source: int, target: int, capacity: int) -> None:
        """From *source* to *target*: what it costs to have the one on the source's side alone."""
        if capacity > 0:
            for start, end, size in ((source, target, capacity), (target, source, 0)):
                self._edges[start].append(len(self._target))
                self._target.append(end)
                self._capacity.append(size)

    def source_side(self) -> set[int]:
        """The vertices on the source's side of the cheapest cut, as many as may be."""
        while levels := self._levels():
            self._saturate(levels)
        # Whatever cannot reach the sink any more.
        found, queue = {self.SINK}, deque([self.SINK])
        while queue:
            for edge in self._edges[queue.popleft()]:
                vertex = self._target[edge]
                if self._capacity[edge ^ 1] and vertex not in found:
                    found.add(vertex)
                    queue.append(vertex)
        return set(range(len(self._edges))) - found

    def _levels(self) -> list[int]:
        """How far each vertex is from the source, -1 if not reached; empty if the sink is not."""
        levels = [-1] * len(self._edges)
        levels[self.SOURCE] = 0
        queue = deque([self.SOURCE])
        while queue:
            vertex = queue.popleft()
            for edge in self._edges[vertex]:
                target = self._target[edge]
                if self._capacity[edge] and levels[target] < 0:
                    levels[target] = levels[vertex] + 1
                    queue.append(target)
        return levels if levels[self.SINK] >= 0 else []

    def _saturate(self, levels: list[int]) -> None:
        """Send what goes along shortest paths."""
        next_edge = [0] * len(self._edges)
        path: list[int] = []
        vertex = self.SOURCE
        while True:
            if vertex == self.SINK:
                flow = min(self._capacity[edge] for edge in path)
                for edge in path:
                    self._capacity[edge] -= flow
                    self._capacity[edge ^ 1] += flow
                full = next(at for at, edge in enumerate(path) if not self._capacity[edge])
                vertex = self._target[path[full] ^ 1]
                del path[full:]
                continue
            edges = self._edges[vertex]
            while next_edge[vertex] < len(edges):
                edge = edges[next_edge[vertex]]
                if self._capacity[edge] and levels[self._target[edge]] == levels[vertex] + 1:
                    break
                next_edge[vertex] += 1
            else:
                if not path:
                    return
                levels[vertex] = -1  # A dead end.
                vertex = self._target[path.pop() ^ 1]
                continue
            path.append(edge)
            vertex = self._target[edge]
