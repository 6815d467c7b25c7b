"""Which part of the model runs on the device: one segment, the host before and after it.

Every operator gets a level: how often data that reaches it has come back from the device to the
host. Along any path levels only grow, so what the device could do at one level, with all its inputs
from there or from lower levels, is a segment that runs in one go. The level with the most
multiply-accumulates becomes the segment; what is below it, or on the host at that level, is the
prologue, and the rest the epilogue.

A model may name the tensor at which the device's part ends (``edged.features`` in its metadata):
what depends on it stays on the host. So the same featurizer compiles to the same program whatever
the classifier behind it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from edged.compiler._graph import Graph, Node, Range, abridged
from edged.compiler._kernel import Kernel, NotOnDevice
from edged.compiler._layout import Layout, entering
from edged.compiler._macs import macs
from edged.compiler._place import FLOAT_INPUT, OPERATORS, VIEWS, place, view
from edged.compiler._place_movement import straightened
from edged.errors import ModelError
from edged.npu import Op

__all__ = ["HostNode", "Partition", "kinds_in_the_way", "partition", "segment_macs"]

_MULTIPLIERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVING = frozenset({Op.CONCAT, Op.COPY, Op.RESCALE})
_LISTED = 12


@dataclass(frozen=True, slots=True, eq=False)
class HostNode:
    """An operator that stays on the host, and why."""

    node: Node
    where: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The model in three parts.

    Attributes:
        prologue, epilogue: operators of the host, in order.
        kernels: layers of the device, in order.
        entering: values that the prologue hands to the device.
        leaving: values that the device hands to the epilogue.
        passing: values that the prologue hands to the epilogue.
        layouts: of every value that enters or that a kernel gives.
        host: each operator of the host with its reason.
        ranges: of values that enter, as far as they are known.
        scales: by what the device's tensors are multiplied, where it is not 1.
    """

    prologue: tuple[Node, ...]
    kernels: tuple[Kernel, ...]
    epilogue: tuple[Node, ...]
    entering: tuple[str, ...]
    leaving: tuple[str, ...]
    passing: tuple[str, ...]
    layouts: dict[str, Layout]
    host: tuple[HostNode, ...]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A node with its level: on the device (with its kernel, or as a mere view) or on the host.

    Attributes:
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


def partition(graph: Graph) -> Partition:
    """Cut *graph* in three.

    Raises:
        ModelError: nothing worth the device; lists the operators and where they stand.
    """
    placed = _placed(graph)
    work = _work(graph, placed)
    multiplies = any(p.node.op in _MULTIPLIERS for p in placed)
    if not work or (multiplies and not any(work.values())):
        raise ModelError(_refusal(placed))
    return _cut(graph, placed, max(work, key=lambda level: (work[level], -level)))


def kinds_in_the_way(graph: Graph) -> Counter[str]:
    """Kinds of operators that keep others off the device, and how many there are of each.

    They are first those that the device does not have, then those that change the order in which
    values lie, then those that it has in other forms.
    """
    counts: Counter[str] = Counter()
    for p in _placed(graph):
        reordered = p.layout is not None and p.layout.order is not None and p.kernel is None
        if reordered or (p.reason and p.node.op not in VIEWS):
            counts.update(node.op for node in p.node.steps)

    def rank(op: str) -> tuple[object, ...]:
        return op in OPERATORS - VIEWS, op in VIEWS, op != "Transpose", -counts[op], op

    return Counter({op: counts[op] for op in sorted(counts, key=rank)})


def segment_macs(graph: Graph, supposed: Collection[str] = ()) -> int:
    """Multiply-accumulates of the segment if operators of the kinds *supposed* were the device's.

    One that changes the order of values would then give them in their natural order.
    """
    work = _work(graph, _placed(graph, supposed))
    return max(work.values(), default=0)


def _work(graph: Graph, placed: Iterable[_Placed]) -> dict[int, int]:
    """Multiply-accumulates of the device by level; levels without a layer are not there."""
    work: dict[int, int] = {}
    for p in placed:
        if p.kernel is not None or p.supposed:
            own = p.kernel.macs if p.kernel is not None else macs(graph, p.node) or 0
            work[p.level] = work.get(p.level, 0) + own
    return work


def _placed(graph: Graph, supposed: Collection[str] = ()) -> list[_Placed]:
    """Every node with its level, as far on the device as the rules let it.

    Args:
        supposed: kinds of operators that are taken for the device's, whatever their operands.
    """
    producers: dict[str, _Placed] = {}
    result: list[_Placed] = []
    behind = {graph.features} if graph.features else set()
    for node in graph.nodes:
        sources = [(name, producers.get(name)) for name in graph.operands(node)]
        level = max((source.level for _, source in sources if source), default=0)
        layouts = [
            source.layout
            if source is not None
            and source.level == level
            and source.layout is not None
            and not source.supposed  # It may have several outputs.
            else _arriving(graph, name)
            for name, source in sources
        ]
        try:
            if not behind.isdisjoint(node.inputs):
                behind.update(node.outputs)
                raise NotOnDevice(
                    f"it is behind the features {abridged(graph.features, 40)!r}, where the model's"
                    " metadata end the device's part"
                )
            follows = node.op in VIEWS and any(
                s is not None and s.supposed and s.layout is None for _, s in sources
            )
            if node.op in supposed or follows:
                done = _Placed(node, level, layout=_arriving(graph, node.output), supposed=True)
            else:
                try:
                    done = _on_device(graph, node, level, layouts, [s for _, s in sources])
                except NotOnDevice:
                    copies = _straightened(s for _, s in sources if s and s.level == level)
                    layouts = [
                        copies[name].layout if name in copies else layout
                        for (name, _), layout in zip(sources, layouts, strict=True)
                    ]
                    if not copies:
                        raise
                    done = _on_device(graph, node, level, layouts, [s for _, s in sources])
                    result = [copies.get(p.node.output, p) for p in result]
                    producers |= copies
        except NotOnDevice as answer:
            # Below this the data came back from the device to the host once more.
            crossed = [s.level + s.on_device for _, s in sources if s is not None]
            done = _Placed(node, max(crossed, default=0), reason=str(answer))
        result.append(done)
        producers |= dict.fromkeys(node.outputs, done)
    return _between_layers(result)


def _between_layers(placed: list[_Placed]) -> list[_Placed]:
    """*placed* with what has to stand between layers on the host, where no layer reads it.

    What moves elements is no such layer: if it only hands on to the host what the host has to
    compute, it is the host's as well.
    """
    read: set[tuple[str, int]] = set()
    for p in reversed(placed):
        if p.supposed:
            read |= {(name, p.level) for name in p.node.inputs}
        elif p.kernel is not None:
            passes = p.kernel.between or p.kernel.op in _MOVING
            if not passes or (p.kernel.output, p.level) in read:
                read |= {(name, p.level) for name in p.kernel.inputs}
    moved: set[tuple[str, int]] = set()
    result: list[_Placed] = []
    for p in placed:
        kernel = p.kernel
        if kernel is not None and (kernel.output, p.level) not in read:
            reason = kernel.between() if kernel.between else "it moves what the host computes"
            if kernel.between or not moved.isdisjoint((name, p.level) for name in kernel.inputs):
                moved.add((kernel.output, p.level))
                # It reads what the device gives at this level, so that it is one level further.
                p = _Placed(p.node, p.level + 1, reason=str(reason))
        result.append(p)
    return result


def _straightened(sources: Iterable[_Placed]) -> dict[str, _Placed]:
    """Views among *sources* as copies in natural order, where there is such a copy."""
    copies: dict[str, _Placed] = {}
    for source in sources:
        if source.kernel is None and source.layout is not None and not source.supposed:
            name = source.node.output
            copy = straightened(source.node.name or name, name, source.layout)
            if copy is not None:
                copies[name] = replace(source, kernel=copy[0], layout=copy[1])
    return copies


def _arriving(graph: Graph, name: str) -> Layout | None:
    value = graph.values[name]
    return entering(name, value.shape or ()) if value.placeable else None


def _on_device(
    graph: Graph,
    node: Node,
    level: int,
    layouts: list[Layout | None],
    sources: list[_Placed | None],
) -> _Placed:
    if node.op in VIEWS:
        (source,) = sources[:1] or [None]
        if source is None or source.layout is None or len(sources) != 1:
            raise NotOnDevice("it reshapes what the host works on")
        return _Placed(node, level, layout=view(graph, node, source.layout))
    operands = [layout for layout in layouts if layout is not None]
    if len(operands) < len(layouts):
        name = graph.operands(node)[layouts.index(None)]
        value = graph.values[name]
        shape = list(value.shape) if value.shape is not None else "?"
        raise FLOAT_INPUT(name=abridged(name, 40), found=f"{value.dtype or '?'} {shape}")
    kernel, layout = place(graph, node, operands)
    given = any(s is not None and s.on_device and s.level == level for s in sources)
    if kernel.between and not given:
        raise kernel.between()
    return _Placed(node, level, replace(kernel, name=node.name or node.output), layout)


def _cut(graph: Graph, placed: list[_Placed], level: int) -> Partition:
    device = [p for p in placed if p.on_device and p.level == level]
    before = [p for p in placed if p.level < level or (p.level == level and not p.on_device)]
    by_output = {name: p for p in placed for name in p.node.outputs}
    early = {name for p in before for name in p.node.outputs} | set(graph.inputs)

    computing = {id(p) for p in _computing(device)}
    epilogue: set[int] = set()
    leaving: dict[str, None] = {}
    passing: dict[str, None] = {}
    open_names = list(graph.outputs)
    while open_names:
        name = open_names.pop()
        source = by_output.get(name)
        if not name or name in graph.constants:
            continue
        if name in early:
            passing[name] = None
        elif source is not None and source.kernel is not None and id(source) in computing:
            leaving[name] = None
        elif source is not None and id(source) not in epilogue:
            epilogue.add(id(source))
            open_names.extend(source.node.inputs)

    kernels = [p.kernel for p in device if p.kernel is not None and id(p) in computing]
    fused = _useful(_fused(kernels, leaving), leaving)
    made = {kernel.output for kernel in fused}
    entered = dict.fromkeys(n for kernel in fused for n in kernel.inputs if n not in made)
    layouts = {p.node.output: p.layout for p in device if p.layout is not None and p.kernel}
    layouts |= {name: layout for name in entered if (layout := _arriving(graph, name)) is not None}
    prologue = _needed(before, (*entered, *passing))
    return Partition(
        prologue=tuple(p.node for p in prologue),
        kernels=tuple(fused),
        epilogue=tuple(p.node for p in placed if id(p) in epilogue),
        entering=tuple(entered),
        leaving=tuple(kernel.output for kernel in fused if kernel.output in leaving),
        passing=tuple(name for name in _in_order(graph) if name in passing),
        layouts=layouts,
        host=(
            *(HostNode(n, "prologue", _reason(p)) for p in prologue for n in p.node.steps),
            *(
                HostNode(n, "epilogue", _reason(p))
                for p in placed
                if id(p) in epilogue
                for n in p.node.steps
            ),
        ),
        ranges={name: graph.ranges[name] for name in entered if name in graph.ranges},
    )


def _computing(device: list[_Placed]) -> list[_Placed]:
    """The operators of *device* without copies that nothing there reads: the host's are free.

    What leaves has steps of its own that way, instead of those of what it is copied beside.
    """
    read: set[str] = set()
    kept: list[_Placed] = []
    for p in reversed(device):
        if p.kernel is not None and (p.kernel.op is not Op.COPY or p.kernel.output in read):
            read.update(p.kernel.inputs)
            kept.append(p)
    return kept[::-1] or device


def _in_order(graph: Graph) -> list[str]:
    return [*graph.inputs, *(name for node in graph.nodes for name in node.outputs)]


def _needed(placed: list[_Placed], names: Iterable[str]) -> list[_Placed]:
    needed = set(names)
    kept: list[_Placed] = []
    for p in reversed(placed):
        if not needed.isdisjoint(p.node.outputs):
            kept.append(p)
            needed.update(p.node.inputs)
    return kept[::-1]


def _useful(kernels: list[Kernel], leaving: Iterable[str]) -> list[Kernel]:
    """Without kernels whose results nobody takes (a lower level may have wanted them)."""
    needed = set(leaving)
    kept: list[Kernel] = []
    for kernel in reversed(kernels):
        if kernel.output in needed:
            kept.append(kernel)
            needed.update(kernel.inputs)
    return kept[::-1]


def _fused(kernels: list[Kernel], leaving: Iterable[str]) -> list[Kernel]:
    """Bounds move into the layer before them, if nobody else reads what that gives."""
    uses = Counter(name for kernel in kernels for name in kernel.inputs) + Counter(list(leaving))
    result: list[Kernel] = []
    at: dict[str, int] = {}
    for kernel in kernels:
        position = at.get(kernel.inputs[0]) if kernel.op is Op.RESCALE else None
        before = result[position] if position is not None else None
        if (
            position is None
            or before is None
            or before.op is Op.MAXPOOL  # has no bounds of its own
            or uses[before.output] > 1
        ):
            at[kernel.output] = len(result)
            result.append(kernel)
            continue
        lo, hi = (min(max(bound, kernel.lo), kernel.hi) for bound in (before.lo, before.hi))
        result[position] = replace(before, output=kernel.output, lo=lo, hi=hi)
        at[kernel.output] = position
    return result


def _reason(placed: _Placed) -> str:
    if placed.reason:
        return placed.reason
    if placed.kernel is None:
        return "it reshapes what the host works on"
    if placed.kernel.op is Op.COPY:
        return "no layer of the device reads what it moves"
    return "it is cut off from the segment by operators of the host"


def _refusal(placed: list[_Placed]) -> str:
    """Every kind of operator that stays on the host, where it stands and why."""
    host = [p for p in placed if p.kernel is None]
    lines = [
        f"{p.node.place} (operator {position} of {len(placed)}): {_reason(p)}"
        for position, p in enumerate(placed, 1)
        if p.kernel is None
    ]
    more = f"; and {len(host) - _LISTED} more" if len(host) > _LISTED else ""
    return (
        "cannot compile model: no part of it can be placed on the device. On the host stay "
        + "; ".join(lines[:_LISTED])
        + more
        + ". Wanted at least one Conv, Gemm or MatMul with constant float32 weights and batch 1"
    )
