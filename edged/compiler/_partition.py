"""Which parts of the model run on the device: segments, with the host before, between and after.

What the device could run (:mod:`edged.compiler._candidates`) and is worth it
(:mod:`edged.compiler._choose`) has a level: how often data that reaches it has come back from the
device to the host. Along any path levels only grow, so what is on the device at one level, with all
its inputs from the host or from lower levels, is a segment that runs in one go. An operator of the
host runs in the first of the host's parts in which all its inputs are there.

A value may go from one segment to a later one with no operator of the host between: it is the same
tensor of the device in both, and the host only keeps its bytes.

A model may name the tensor at which the device's part ends (``edged.features`` in its metadata):
what depends on it stays on the host. So the same featurizer compiles to the same program whatever
the classifier behind it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edged.compiler._candidates import Candidate, arriving, candidates
from edged.compiler._choose import chosen
from edged.compiler._functions import is_scalar_function
from edged.compiler._graph import Graph, Node, Range
from edged.compiler._kernel import Kernel
from edged.compiler._layout import Layout
from edged.compiler._place import OPERATORS, VIEWS
from edged.compiler._tables import Function
from edged.errors import ModelError
from edged.npu import Op
from edged.npu.regmap import MAX_ENTRIES

__all__ = [
    "HostNode",
    "HostPart",
    "Partition",
    "Segment",
    "kinds_in_the_way",
    "partition",
    "segment_macs",
]

_MULTIPLIERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_LISTED = 12
_NOT_WORTH_IT = "its work on the device is not worth the way there and back"
_RESHAPES = "it reshapes what the host works on"


@dataclass(frozen=True, slots=True, eq=False)
class HostNode:
    """An operator that stays on the host, and why.

    Attributes:
        part: number of the host's part that it is in.
        where: the same in words: prologue, epilogue, or between which entries.
    """

    node: Node
    part: int
    where: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class HostPart:
    """What the host runs before a segment, or behind the last one.

    Attributes:
        nodes: in order.
        leaving: values of the device that it reads as floats.
        entering: values that it hands to the device, to the segment behind it or a later one.
        taken: values of the host's earlier parts that it reads.
        given: values that later ones of the host's parts read.
    """

    nodes: tuple[Node, ...]
    leaving: tuple[str, ...]
    entering: tuple[str, ...]
    taken: tuple[str, ...]
    given: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """What the device runs in one go.

    Attributes:
        kernels: its layers, in order.
        inputs: values that it has from the host, or that earlier segments gave.
        outputs: values that the host reads, or later segments do.
    """

    kernels: tuple[Kernel, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The model in parts.

    Attributes:
        segments: of the device, in order; each becomes an entry of the program.
        parts: of the host, in order: one before each segment, and one behind the last.
        layouts: of every value that enters the device or that a kernel gives.
        host: each operator of the host with its reason.
        ranges: of values that enter, as far as they are known.
        scales: by what the device's tensors are multiplied, where it is not 1.
        functions: of values that leave, where the host reads them through functions of one number
            alone: which.
    """

    segments: tuple[Segment, ...]
    parts: tuple[HostPart, ...]
    layouts: dict[str, Layout]
    host: tuple[HostNode, ...]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    functions: Mapping[str, Sequence[Function]] = field(default_factory=dict)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The layers of all segments."""
        return tuple(kernel for segment in self.segments for kernel in segment.kernels)

    @property
    def entering(self) -> tuple[str, ...]:
        """Values that the host hands to the device."""
        return tuple(name for part in self.parts for name in part.entering)

    @property
    def leaving(self) -> tuple[str, ...]:
        """Values of the device that the host reads as floats."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.leaving))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Values that are tensors of the device: those that enter, and what each kernel gives."""
        return (*self.entering, *(kernel.output for kernel in self.kernels))

    def with_kernels(self, kernels: Iterable[Kernel], scales: Mapping[str, float]) -> Partition:
        """The same with other *kernels*, one for each, and *scales*."""
        new = iter(kernels)
        segments = tuple(
            replace(segment, kernels=tuple(next(new) for _ in segment.kernels))
            for segment in self.segments
        )
        return replace(self, segments=segments, scales=scales)


def partition(graph: Graph, left: Mapping[str, str] | None = None) -> Partition:
    """Cut *graph* in parts.

    Args:
        left: what is left to the host whatever it costs, by the name of its first output, with the
            reason.

    Raises:
        ModelError: nothing worth the device; lists the operators and where they stand.
    """
    refused = dict(left or {})
    found = candidates(graph, refused=refused)
    device = chosen(graph, found)
    work = sum(c.macs(graph) for c in found if c.node.output in device)
    multiplies = any(c.node.op in _MULTIPLIERS for c in found)
    if not any(c.kernel and c.node.output in device for c in found) or (multiplies and not work):
        raise ModelError(_refusal(found))
    unwanted = {
        c.node.output: _NOT_WORTH_IT if c.kernel is not None else _RESHAPES
        for c in found
        if c.on_device and c.node.output not in device
    }
    while unwanted := unwanted or _superfluous(found):
        # Those that stay on the host for the order they give keep that as their reason.
        refused |= {c.node.output: c.reason for c in found if c.reason} | unwanted
        found, unwanted = candidates(graph, refused=refused), {}
    return _Cutting(graph, found).partition()


def _superfluous(placed: Sequence[Candidate]) -> dict[str, str]:
    """Kernels to be left to the host for the round trip, or the entry, that their level costs.

    The cheapest cut does not know of levels: where what is on the device is connected around the
    host, some of it may be alone at a level. If that multiplies nothing, it is not worth a run.
    """
    at: dict[int, list[Candidate]] = {}
    for c in placed:
        if c.kernel is not None:
            at.setdefault(c.level, []).append(c)
    work = {level: sum(c.kernel.macs for c in each if c.kernel) for level, each in at.items()}
    least = min(at, key=lambda level: work[level])
    if any(work.values()) and not work[least]:
        return dict.fromkeys((c.node.output for c in at[least]), _NOT_WORTH_IT)
    if len(at) > MAX_ENTRIES:
        return dict.fromkeys((c.node.output for c in at[least]), "the program has no entry left")
    return {}


def kinds_in_the_way(graph: Graph) -> Counter[str]:
    """Kinds of operators that keep others off the device, and how many there are of each.

    They are first those that the device does not have, then those that change the order in which
    values lie, then those that it has in other forms.
    """
    counts: Counter[str] = Counter()
    for c in candidates(graph):
        reordered = c.layout is not None and c.layout.order is not None and c.kernel is None
        if reordered or (c.reason and c.node.op not in VIEWS):
            counts.update(step.op for step in c.node.steps if step.op != "Identity")

    def rank(op: str) -> tuple[object, ...]:
        return op in OPERATORS - VIEWS, op in VIEWS, op != "Transpose", -counts[op], op

    return Counter({op: counts[op] for op in sorted(counts, key=rank)})


def segment_macs(graph: Graph, supposed: Collection[str] = ()) -> int:
    """Multiply-accumulates of the device if operators of the kinds *supposed* were the device's.

    One that changes the order of values would then give them in their natural order.
    """
    found = candidates(graph, supposed)
    device = chosen(graph, found)
    return sum(c.macs(graph) for c in found if c.node.output in device)


class _Cutting:
    """Making a partition of what is placed."""

    def __init__(self, graph: Graph, placed: Sequence[Candidate]) -> None:
        self._graph = graph
        self._placed = placed
        self._by_output = {name: c for c in placed for name in c.node.outputs}
        self._read: set[str] = set()  # values that the host reads as floats, or gives as outputs
        self._host: set[int] = set()  # nodes that the host runs
        self._device: set[int] = set()  # nodes that the device runs
        self._find_needed()
        levels = sorted({c.level for c in placed if id(c) in self._device})
        self._last = len(levels)
        self._segment_of_level = {level: number for number, level in enumerate(levels)}
        self._part_of_level = {
            level: sum(other < level for other in levels)
            for level in range(max(c.level for c in placed) + 2)
        }

    def partition(self) -> Partition:
        graph = self._graph
        kernels = [self._kernels(level) for level in self._segment_of_level]
        segments: list[Segment] = []
        made = [{kernel.output for kernel in each} for each in kernels]
        everywhere = set().union(*made)
        entering: dict[str, int] = {}  # the first segment that takes each
        for number, each in enumerate(kernels):
            taken = dict.fromkeys(
                name for kernel in each for name in kernel.inputs if name not in made[number]
            )
            for name in taken:
                if name not in everywhere:
                    entering.setdefault(name, number)
            later = {name for other in kernels[number + 1 :] for k in other for name in k.inputs}
            outputs = [k.output for k in each if k.output in later or k.output in self._read]
            segments.append(Segment(tuple(each), tuple(taken), tuple(outputs)))
        layouts = {
            name: c.layout
            for c in self._placed
            if id(c) in self._device and c.layout is not None
            for name in c.node.outputs[:1]
        }
        layouts |= {n: layout for n in entering if (layout := arriving(graph, n)) is not None}
        host = [c for c in self._placed if id(c) in self._host]
        return Partition(
            tuple(segments),
            self._parts(host, entering, everywhere),
            layouts,
            tuple(
                HostNode(step, self._part(c), self._where(self._part(c)), _reason(c))
                for c in sorted(host, key=self._part)
                for step in c.node.steps
                if step.op != "Identity"  # It is there for the device: the host computes nothing.
            ),
            ranges={name: graph.ranges[name] for name in entering if name in graph.ranges},
            functions=self._functions(everywhere),
        )

    def _functions(self, device: Collection[str]) -> dict[str, Sequence[Function]]:
        """The functions that the host reads the values *device* through, where it reads no more."""
        found: dict[str, list[Function]] = {}
        other = set(self._graph.outputs)
        source = {name: name for name in device}
        for c in self._placed:
            if id(c) in self._host:
                operands = self._graph.operands(c.node)
                names = [source[name] for name in operands if name in source]
                if len(operands) == 1 and names and c.node.op in VIEWS:
                    source[c.node.output] = names[0]
                elif len(operands) == 1 and names and is_scalar_function(self._graph, c.node):
                    found.setdefault(names[0], []).append(Function(self._graph, c.node))
                else:
                    other.update(names)
        other |= {source[name] for name in self._graph.outputs if name in source}
        return {name: functions for name, functions in found.items() if name not in other}

    def _find_needed(self) -> None:
        """Which nodes the host runs, and which the device, for the sake of the model's outputs.

        A view is none of the device's: the host does it over where it reads what it gives.
        """
        open_names = [(name, True) for name in self._graph.outputs]
        seen: set[tuple[str, bool]] = set()
        while open_names:
            name, by_host = entry = open_names.pop()
            if not name or name in self._graph.constants or entry in seen:
                continue
            seen.add(entry)
            source = self._by_output.get(name)
            if by_host:
                self._read.add(name)
            if source is not None and source.kernel is not None:
                if id(source) not in self._device:
                    self._device.add(id(source))
                    open_names += [(each, False) for each in source.kernel.inputs]
            elif source is not None and id(source) not in self._host:
                self._host.add(id(source))
                open_names += [(each, True) for each in source.node.inputs]

    def _kernels(self, level: int) -> list[Kernel]:
        """The layers of a segment, with bounds in the layers before them where they can be."""
        needed = [c for c in self._placed if id(c) in self._device]
        inside = [c.kernel for c in needed if c.kernel and c.level == level]
        outside = {n for c in needed if c.kernel and c.level != level for n in c.kernel.inputs}
        return _fused(inside, [k.output for k in inside if k.output in self._read | outside])

    def _part(self, candidate: Candidate) -> int:
        """The host's part that runs a node."""
        return self._part_of_level[candidate.level + candidate.on_device]

    def _where(self, part: int) -> str:
        if part == 0:
            return "prologue"
        return "epilogue" if part == self._last else f"between {part - 1} and {part}"

    def _parts(
        self, host: Sequence[Candidate], entering: Mapping[str, int], device: Collection[str]
    ) -> tuple[HostPart, ...]:
        graph = self._graph
        given_in = dict.fromkeys(graph.inputs, 0)
        given_in |= {name: self._part(c) for c in host for name in c.node.outputs}
        count = self._last + 1
        nodes = [[c.node for c in host if self._part(c) == number] for number in range(count)]
        enters: list[list[str]] = [[] for _ in range(count)]
        for name, number in entering.items():
            enters[number].append(name)
        reads = [
            dict.fromkeys(
                (
                    *(name for node in nodes[number] for name in graph.operands(node)),
                    *enters[number],
                    *(graph.outputs if number == self._last else ()),
                )
            )
            for number in range(count)
        ]
        taken = [
            [n for n in reads[number] if given_in.get(n, number) < number]
            for number in range(count)
        ]
        return tuple(
            HostPart(
                tuple(nodes[number]),
                tuple(name for name in reads[number] if name in device),
                tuple(enters[number]),
                tuple(taken[number]),
                tuple(
                    dict.fromkeys(
                        name
                        for later in taken[number + 1 :]
                        for name in later
                        if given_in[name] == number
                    )
                ),
            )
            for number in range(count)
        )


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


def _reason(candidate: Candidate) -> str:
    if candidate.reason:
        return candidate.reason
    if candidate.kernel is None:
        return _RESHAPES
    return _NOT_WORTH_IT


def _refusal(found: Sequence[Candidate]) -> str:
    """Every kind of operator that stays on the host, where it stands and why."""
    host = [c for c in found if c.kernel is None]
    lines = [
        f"{c.node.place} (operator {position} of {len(found)}): {_reason(c)}"
        for position, c in enumerate(found, 1)
        if c.kernel is None
    ]
    more = f"; and {len(host) - _LISTED} more" if len(host) > _LISTED else ""
    return (
        "cannot compile model: no part of it can be placed on the device. On the host stay "
        + "; ".join(lines[:_LISTED])
        + more
        + ". Wanted at least one Conv, Gemm or MatMul with constant float32 weights and batch 1"
    )
