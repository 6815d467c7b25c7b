"""A frozen GraphDef as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError

from edged import wire
from edged.errors import LimitError, ModelError

__all__ = ["Graph", "Node", "node_of", "read_graph"]

_MAX_NODES: Final = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator.

    Attributes:
        inputs: tensors, ``NODE`` or ``NODE:1`` for one output of several; ``^NODE`` for what it
            merely waits for.
        attributes: strings as bytes; a dtype as its number in TensorFlow's enum; a tensor as its
            message.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"{self.op} {self.name!r}"

    @property
    def data(self) -> tuple[str, ...]:
        """The inputs without those that it merely waits for."""
        return tuple(name for name in self.inputs if not name.startswith("^"))


class Graph:
    """Nodes by name, and who reads whom. There may be loops."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self._readers: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in node.data:
                source = node_of(name)
                if source not in self.nodes:
                    raise ModelError(
                        f"cannot read the graph: {node.place} reads {name!r}, which is not there"
                    )
                self._readers.setdefault(source, []).append(node)

    def producer(self, tensor: str) -> Node:
        """The node that gives *tensor*."""
        return self.nodes[node_of(tensor)]

    def readers(self, node: Node) -> list[Node]:
        """The nodes that read one of its outputs."""
        return self._readers.get(node.name, [])

    def behind(self, start: Node, without: Node | None = None) -> set[str]:
        """The names of all nodes that depend on *start*, with it, on ways that avoid *without*."""
        found: set[str] = set()
        left = [start]
        while left:
            node = left.pop()
            if node.name not in found and node is not without:
                found.add(node.name)
                left.extend(self.readers(node))
        return found


def node_of(tensor: str) -> str:
    """The node's name in that of a tensor."""
    return tensor.removeprefix("^").partition(":")[0]


def read_graph(data: bytes) -> Graph:
    """The graph in the bytes of a GraphDef.

    Raises:
        ModelError: they are none, or a node reads what is not there.
        LimitError: it has more than 100,000 nodes.
    """
    try:
        message = wire.GraphDef.FromString(data)
    except DecodeError as error:
        raise ModelError("cannot read the graph: it is no GraphDef") from error
    if len(message.node) > _MAX_NODES:
        raise LimitError(
            f"cannot read the graph: it has {len(message.node)} nodes, at most {_MAX_NODES} are"
            " taken"
        )
    return Graph(_nodes(message))


def _nodes(message: wire.GraphDef) -> Iterator[Node]:
    for node in message.node:
        yield Node(
            node.name,
            node.op,
            tuple(node.input),
            {name: _value(value) for name, value in node.attr.items()},
        )


def _value(value: wire.AttrValue) -> Any:
    kind = value.WhichOneof("value")
    if kind != "list":
        return getattr(value, kind) if kind else None
    for items in (value.list.i, value.list.s, value.list.f, value.list.b, value.list.type):
        if len(items):
            return list(items)
    return []
