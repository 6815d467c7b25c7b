"""From the nodes of a graph that takes encoded images to the preprocessing of a manifest.

The graph is asked, not matched: an interpreter computes what it makes of black, white and coloured
images, which tells the scaling, and of images of several sizes, which tells resizing and cropping.
What comes of it has to agree with `edged.preprocess` on noise, else it was not recognised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.convert._evaluate import PASSING, Evaluation, Resize, Stopped
from edged.convert._graph import Graph, Node, node_of
from edged.errors import InputError, ModelError
from edged.preprocess import IMAGENET, Channels, PixelType, Preprocess, Sampling, Transform, apply

__all__ = ["Recognised", "recognise"]

_Array = npt.NDArray[Any]
_Pixels = npt.NDArray[np.uint8]

_SIZES: Final = ((480, 640), (600, 450), (301, 997), (512, 512))
"""Height and width of the images that are tried; no side is shorter than a usual crop."""

_TOLERANCE: Final = 2e-3
"""Of the range of values: the order of float operations may differ, not what they mean."""

_STRING: Final = 7


@dataclass(frozen=True, slots=True)
class Recognised:
    """Where preprocessing ends, and what it is.

    Attributes:
        tensor: its result, float32 [N, H, W, 3]; what is behind it is the network.
        source: the string placeholder's tensor; also the name of the input that takes its place.
        preprocess: the same, for a manifest.
    """

    tensor: str
    source: str
    preprocess: Preprocess


def recognise(graph: Graph, source: str, outputs: Sequence[str]) -> Recognised:
    """Read image preprocessing off a graph.

    Args:
        graph: frozen, its loops and branches written with Switch and Merge.
        source: the string placeholder, a batch of encoded images or one image.
        outputs: the tensors that the model is to give.

    Raises:
        ModelError: it is not recognised: names the operator that stopped it.
    """
    start = graph.producer(source)
    tensor, node = _last(graph, start, outputs)
    samples = [_noise(height, width) for height, width in _SIZES]
    results, done = _results(graph, start, tensor, samples)
    resizes = [resize for evaluation in done for resize in evaluation.resizes]
    _, height, width, _ = results[0].shape
    scaling = _scaling(graph, start, tensor, node)
    name = f"{start.name}:0"
    tried = list(_candidates(name, height, width, resizes, scaling))
    for spec in tried:
        if all(_agree(apply(s, spec), r) for s, r in zip(samples, results, strict=True)):
            return Recognised(tensor, name, spec)
    bends = [node for evaluation in done for node in evaluation.bends]
    culprit = bends[0] if bends else resizes[-1].node if resizes else node
    nearest = f"; nearest is {tried[0].transform} of {width}x{height}" if tried else ""
    raise ModelError(
        f"cannot recognise the image preprocessing: with {culprit.place} it is none of the"
        f" transforms that edged has{nearest}, and differs from it. {_ADVICE}"
    )


_ADVICE: Final = (
    "Convert what is behind it (--input 'TENSOR[1,224,224,3]'), and say the preprocessing"
    " (--preprocess)"
)


def _last(graph: Graph, start: Node, outputs: Sequence[str]) -> tuple[str, Node]:
    """The last tensor that all ways to the outputs lead through and that is still an image.

    Raises:
        ModelError: there is none; names the operator that no preprocessing has.
    """
    found: tuple[str, Node] | None = None
    stopped: Stopped | None = None
    evaluations = [Evaluation(graph, start, _noise(*size)) for size in _SIZES[:2]]
    for node in _passages(graph, start, outputs):
        tensor = f"{node.name}:0"
        try:
            one, two = (evaluation.value(tensor) for evaluation in evaluations)
        except Stopped as answer:
            # The lists that a loop works on have no value here, but what is taken out of them has.
            if stopped is None and answer.node.op not in PASSING:
                stopped = answer
            continue
        fixed = one.shape == two.shape and one.ndim == 4 and one.shape[::3] == (1, 3)
        if fixed and one.dtype == np.float32:
            found = tensor, node
    if found is not None:
        return found
    if stopped is None:
        raise ModelError(
            "cannot recognise the image preprocessing: nothing between"
            f" {start.place} and the outputs is a float image of one size. {_ADVICE}"
        )
    raise ModelError(
        "cannot recognise the image preprocessing: stopped at"
        f" {stopped.node.place}: {stopped.reason}. {_ADVICE}"
    )


def _passages(graph: Graph, start: Node, outputs: Sequence[str]) -> Iterator[Node]:
    """The nodes that every way from *start* to an output leads through, in order, outside loops."""
    ends = {node_of(output) for output in outputs}
    behind = graph.behind(start)
    reached = ends & behind
    if not reached:
        raise ModelError(
            f"cannot recognise the image preprocessing: no output depends on {start.place}"
        )
    inside = _loops(graph)
    passages: list[tuple[str, set[str]]] = []
    for name in behind - inside - {start.name}:
        around = graph.behind(start, graph.nodes[name])
        if not around & reached:
            passages.append((name, around))
    # The earlier one is, the fewer nodes are there without it.
    for name, _ in sorted(passages, key=lambda item: len(item[1])):
        yield graph.nodes[name]


def _loops(graph: Graph) -> set[str]:
    """The names of the nodes inside loops."""
    inside: set[str] = set()
    left = [node for node in graph.nodes.values() if node.op in ("Enter", "LoopCond")]
    while left:
        node = left.pop()
        if node.name not in inside and node.op != "Exit":
            inside.add(node.name)
            left.extend(graph.readers(node))
    return inside


def _results(
    graph: Graph, start: Node, tensor: str, samples: Sequence[_Pixels]
) -> tuple[list[_Array], list[Evaluation]]:
    results, done = [], []
    for pixels in samples:
        evaluation = Evaluation(graph, start, pixels)
        try:
            results.append(evaluation.value(tensor))
        except Stopped as answer:
            raise ModelError(
                f"cannot recognise the image preprocessing: stopped at {answer.node.place}:"
                f" {answer.reason}. {_ADVICE}"
            ) from answer
        done.append(evaluation)
    return results, done


@dataclass(frozen=True, slots=True, eq=False)
class _Scaling:
    """What becomes of x in each channel of the tensor: slope · x + offset, both [3]."""

    slope: _Array
    offset: _Array
    channels: Channels


def _scaling(graph: Graph, start: Node, tensor: str, node: Node) -> _Scaling:
    """Scale the channels of plain images.

    Raises:
        ModelError: channels are mixed or in another order, or a plain image does not stay plain.
    """
    height, width = _SIZES[0]
    plain = np.zeros((4, height, width, 3), np.uint8)
    for channel in range(3):
        plain[channel + 1, :, :, channel] = 255
    (black, *colours), _ = _results(graph, start, tensor, list(plain))
    offset = _means(black)
    shifts = np.array([_means(colour) - offset for colour in colours])
    spread = max(float(np.ptp(image.reshape(-1, 3), axis=0).max()) for image in (black, *colours))
    scale = float(np.abs(shifts).max())
    if spread > _TOLERANCE * max(scale, 1e-9):
        raise ModelError(
            f"cannot recognise the image preprocessing: an image of one colour does not stay one at"
            f" {node.place}. {_ADVICE}"
        )
    order = [int(channel) for channel in np.abs(shifts).argmax(axis=1)]
    channels = Channels.BGR if order == [2, 1, 0] else Channels.RGB
    if channels is Channels.BGR:
        shifts = shifts[::-1]  # of the colour that the channel is made of
    if np.abs(shifts - np.diag(np.diag(shifts))).max() > _TOLERANCE * scale:
        raise ModelError(
            "cannot recognise the image preprocessing: each channel is to be one colour, in the"
            f" order R, G, B or B, G, R; at {node.place} they are mixed or reordered, for which"
            " edged has no transform. Convert what is behind it (--input 'TENSOR[1,224,224,3]'),"
            " and send it tensors"
        )
    return _Scaling(np.diag(shifts) / 255, offset, channels)


def _means(image: _Array) -> _Array:
    """Of each channel."""
    return np.asarray(image.reshape(-1, 3).mean(axis=0, dtype=np.float64))


def _candidates(
    name: str,
    height: int,
    width: int,
    resizes: Sequence[Resize],
    scaling: _Scaling,
) -> Iterator[Preprocess]:
    """What it may be, the most telling first."""
    for transform in (Transform.IMAGENET, Transform.SSD):
        yield from _made(name, height, width, transform, {"channels": scaling.channels})
    numbers = {
        **_numbers(scaling.slope, scaling.offset),
        "channels": scaling.channels,
        "sampling": Sampling.TF1,
    }
    if any(resize.after != (height, width) for resize in resizes):
        short = max(min(resize.after) for resize in resizes)
        yield from _made(name, height, width, Transform.CROP, {**numbers, "short": short})
    else:
        yield from _made(name, height, width, Transform.STRETCH, numbers)


def _made(
    name: str, height: int, width: int, transform: Transform, options: dict[str, Any]
) -> Iterator[Preprocess]:
    try:
        yield Preprocess(
            input=name,
            height=height,
            width=width,
            transform=transform,
            layout=IMAGENET.layout,
            dtype=PixelType.FLOAT32,
            **options,
        )
    except InputError:
        return  # of another size, for instance


def _numbers(slope: _Array, offset: _Array) -> dict[str, Any]:
    """Slope and offset as (x · scale - mean) / std."""
    if np.ptp(slope) <= 1e-6 * abs(slope[0]):
        scale = float(Fraction(float(slope.mean())).limit_denominator(1024))
        if not np.isclose(scale, slope[0], rtol=1e-5):
            scale = float(slope.mean())
        return {"scale": scale, "mean": _tuple(-offset)}
    scale = 1 / 255
    std = scale / slope
    return {"scale": scale, "mean": _tuple(-offset * std), "std": _tuple(std)}


def _tuple(values: _Array) -> tuple[float, float, float]:
    first, second, third = (float(f"{float(value):.6g}") for value in values)
    return first + 0.0, second + 0.0, third + 0.0


def _agree(ours: _Array, theirs: _Array) -> bool:
    if ours.shape != theirs.shape:
        return False
    scale = float(np.ptp(theirs)) or 1.0
    return bool(np.abs(ours - theirs).max() <= _TOLERANCE * scale)


def _noise(height: int, width: int) -> _Pixels:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)
