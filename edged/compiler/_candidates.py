"""Which operators the device could run: each with its kernel, or with the reason why it cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from edged.compiler._graph import Graph, Node, abridged
from edged.compiler._kernel import Kernel, NotOnDevice
from edged.compiler._layout import Layout, entering
from edged.compiler._macs import macs
from edged.compiler._place import FLOAT_INPUT, VIEWS, place, view
from edged.compiler._place_movement import straightened
from edged.npu import Op

__all__ = ["Candidate", "arriving", "candidates"]

_MOVING = frozenset({Op.CONCAT, Op.COPY})


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A node, and what it would be on the device: a kernel, or a mere view.

    Attributes:
        layout: of its output there; None for one that stays on the host, and for a supposed one
            whose output has no place there.
        level: how often data that reaches it has come back from the device to the host.
        reason: why it stays on the host.
        supposed: it is on the device because the question is what would follow from that.
    """

    node: Node
    level: int
    kernel: Kernel | None = None
    layout: Layout | None = None
    reason: str = ""
    supposed: bool = False

    @property
    def on_device(self) -> bool:
        return self.supposed or self.layout is not None

    def macs(self, graph: Graph) -> int:
        """Multiply-accumulates of one run, as far as they are known."""
        return self.kernel.macs if self.kernel is not None else macs(graph, self.node) or 0


def candidates(
    graph: Graph,
    supposed: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """Every node, on the device wherever the rules let it.

    An operator that multiplies may want a value as the model has it, when operators of the device
    before it have left it in another order. These stay on the host then: what they save is little.

    Args:
        supposed: kinds of operators that are taken for the device's, whatever their operands.
        refused: nodes that stay on the host by the name of their first output, with the reason.
    """
    kept = dict(refused or {})
    while True:
        found, reordering = _pass(graph, supposed, kept)
        if not reordering:
            return found
        kept |= reordering


def arriving(graph: Graph, name: str) -> Layout | None:
    """How a value that the host has comes to the device; None where it cannot."""
    value = graph.values[name]
    return entering(name, value.shape or ()) if value.placeable else None


def _pass(
    graph: Graph, supposed: Collection[str], refused: Mapping[str, str]
) -> tuple[list[Candidate], dict[str, str]]:
    """Candidates, and what else is to be refused, with the reason."""
    producers: dict[str, Candidate] = {}
    result: list[Candidate] = []
    reordering: dict[str, str] = {}
    behind = {graph.features} if graph.features else set()
    for node in graph.nodes:
        sources = [producers.get(name) for name in graph.operands(node)]
        layouts = [
            source.layout
            if source is not None and source.layout is not None and not source.supposed
            else arriving(graph, name)  # A supposed one may have several outputs.
            for name, source in zip(graph.operands(node), sources, strict=True)
        ]
        level = max((source.level for source in sources if source is not None), default=0)
        try:
            if not behind.isdisjoint(node.inputs):
                behind.update(node.outputs)
                raise NotOnDevice(
                    f"it is behind the features {abridged(graph.features, 40)!r}, where the model's"
                    " metadata end the device's part"
                )
            if node.output in refused:
                raise NotOnDevice(refused[node.output])
            follows = node.op in VIEWS and any(
                s is not None and s.supposed and s.layout is None for s in sources
            )
            if node.op in supposed or follows:
                done = Candidate(node, level, layout=arriving(graph, node.output), supposed=True)
            else:
                try:
                    done = _on_device(graph, node, level, layouts, sources)
                except NotOnDevice:
                    copies = _straightened(source for source in sources if source is not None)
                    if not copies:
                        raise
                    copied = [
                        copies[name].layout if name in copies else layout
                        for name, layout in zip(graph.operands(node), layouts, strict=True)
                    ]
                    done = _on_device(graph, node, level, copied, sources)
                    result = [copies.get(c.node.output, c) for c in result]
                    producers |= copies
        except NotOnDevice as answer:
            reordering |= _in_another_order(graph, node, layouts, sources, refused)
            # Below this the data came back from the device to the host once more.
            crossed = [s.level + s.on_device for s in sources if s is not None]
            done = Candidate(node, max(crossed, default=0), reason=str(answer))
        result.append(done)
        producers |= dict.fromkeys(node.outputs, done)
    return _between_layers(result), reordering


def _between_layers(found: list[Candidate]) -> list[Candidate]:
    """*found* with what has to stand between layers on the host, where no layer reads it.

    What moves elements is the host's as well, if no layer reads it: what leaves has steps of its
    own that way, instead of those of what it is copied beside. So are bounds behind any of these.
    """
    read: set[str] = set()
    for c in reversed(found):
        if c.supposed:
            read.update(c.node.inputs)
        elif c.kernel is not None:
            passes = c.kernel.between or c.kernel.op in _MOVING or c.kernel.op is Op.RESCALE
            if not passes or c.kernel.output in read:
                read.update(c.kernel.inputs)
    moved: set[str] = set()
    result: list[Candidate] = []
    for c in found:
        kernel = c.kernel
        if kernel is not None and kernel.output not in read:
            reason = kernel.between() if kernel.between else "no layer of the device reads it"
            if kernel.between or kernel.op in _MOVING or not moved.isdisjoint(kernel.inputs):
                moved.add(kernel.output)
                # It reads what the device gives at this level, so that it is one level further.
                c = Candidate(c.node, c.level + 1, reason=str(reason))
        result.append(c)
    return result


def _straightened(sources: Iterable[Candidate]) -> dict[str, Candidate]:
    """Views among *sources* as copies in natural order, where there is such a copy."""
    copies: dict[str, Candidate] = {}
    for source in sources:
        if source.kernel is None and source.layout is not None and not source.supposed:
            name = source.node.output
            copy = straightened(source.node.name or name, name, source.layout)
            if copy is not None:
                copies[name] = replace(source, kernel=copy[0], layout=copy[1])
    return copies


def _in_another_order(
    graph: Graph,
    node: Node,
    layouts: list[Layout | None],
    sources: list[Candidate | None],
    refused: Mapping[str, str],
) -> dict[str, str]:
    """The sources of *node* without which it could be on the device, if there are such."""
    changed = [
        source.node.output
        for source, layout in zip(sources, layouts, strict=True)
        if source is not None
        and source.on_device
        and layout is not None
        and layout.order is not None
        and not source.macs(graph)
    ]
    if not changed or node.output in refused or not macs(graph, node):
        return {}
    natural = [arriving(graph, name) for name in graph.operands(node)]
    try:
        _on_device(graph, node, 0, natural, sources)
    except NotOnDevice:
        return {}
    return dict.fromkeys(changed, f"{node.place} wants it in its order")


def _on_device(
    graph: Graph,
    node: Node,
    level: int,
    layouts: list[Layout | None],
    sources: list[Candidate | None],
) -> Candidate:
    if node.op in VIEWS:
        (source,) = sources[:1] or [None]
        if source is None or source.layout is None or len(sources) != 1:
            raise NotOnDevice("it reshapes what the host works on")
        return Candidate(node, level, layout=view(graph, node, source.layout))
    if node.op == "Identity" and layouts[0] is not None and layouts[0].is_matrices():
        return Candidate(node, level, layout=layouts[0])
    operands = [layout for layout in layouts if layout is not None]
    if len(operands) < len(layouts):
        name = graph.operands(node)[layouts.index(None)]
        value = graph.values[name]
        shape = list(value.shape) if value.shape is not None else "?"
        raise FLOAT_INPUT(name=abridged(name, 40), found=f"{value.dtype or '?'} {shape}")
    kernel, layout = place(graph, node, operands)
    if kernel.between and not any(source is not None and source.on_device for source in sources):
        raise kernel.between()
    return Candidate(node, level, replace(kernel, name=node.name or node.output), layout)
