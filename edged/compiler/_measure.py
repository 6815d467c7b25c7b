"""How far each layer of the program is from the float model, on samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged._pipeline import Pipeline
from edged.compiler._calibrate import Samples
from edged.compiler._graph import Graph
from edged.compiler._partition import Partition
from edged.compiler._quantise import Quantised
from edged.compiler._session import FloatSession
from edged.npu import ProgramImage, numerics

__all__ = ["layer_errors", "output_error"]


def layer_errors(
    graph: Graph,
    cut: Partition,
    quantised: Quantised,
    image: ProgramImage,
    host: Sequence[bytes],
    samples: Samples,
    count: int,
) -> dict[str, float]:
    """For each kernel's output: RMS of the difference over the RMS of the float values.

    The program runs from its inputs, so a layer's error has those of all before it in it.

    Args:
        quantised: says what the integers of the tensors stand for.
        host: the ONNX files around the entries of *image*.
        count: how many samples to take, evenly spaced.

    Raises:
        ModelError: ONNX Runtime cannot run the float model.
    """
    names = [kernel.output for kernel in cut.kernels]
    large = graph.large()
    floats = FloatSession(graph.onnx(names, large), "run the float model to measure errors")
    pipeline = Pipeline(image, host)
    tensors: dict[int, npt.NDArray[Any]] = {}

    def device(entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        tensors.update(numerics.run_all(image, [array[0] for array in inputs], entry))
        return [tensors[index][None] for index in image.entries[entry].outputs]

    noise = np.zeros(len(names))
    signal = np.zeros(len(names))
    for feeds in _spaced(samples, count):
        pipeline.run(feeds, device)
        wanted = floats.run({**feeds, **large})
        for position, name in enumerate(names):
            index = len(cut.entering) + position
            plane = cut.layouts[name].to_plane(wanted[position]).astype(np.float64)
            found = quantised.real(name).real(tensors[index].astype(np.float64))
            found /= cut.scales.get(name, 1.0)
            noise[position] += ((found - plane) ** 2).sum()
            signal[position] += (plane**2).sum()
    ratios = np.sqrt(noise / np.maximum(signal, np.finfo(np.float64).tiny))
    return {name: float(f"{ratio:.4g}") for name, ratio in zip(names, ratios, strict=True)}


def output_error(
    graph: Graph, image: ProgramImage, host: Sequence[bytes], samples: Samples, count: int
) -> float:
    """The same for the model's outputs of floats, on average.

    Raises:
        ModelError: ONNX Runtime cannot run the float model.
    """
    large = graph.large()
    floats = FloatSession(graph.onnx(graph.outputs, large), "run the float model to measure errors")
    pipeline = Pipeline(image, host)

    def device(entry: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        given = numerics.run(image, [array[0] for array in inputs], entry)
        return [array[None] for array in given]

    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    for feeds in _spaced(samples, count):
        found = pipeline.run(feeds, device)
        for name, wanted in zip(graph.outputs, floats.run({**feeds, **large}), strict=True):
            if wanted.dtype == np.float32:
                off = found[name].astype(np.float64) - wanted
                noise[name] = noise.get(name, 0.0) + float((off**2).sum())
                signal[name] = signal.get(name, 0.0) + float((wanted.astype(np.float64) ** 2).sum())
    tiny = float(np.finfo(np.float64).tiny)
    errors = [math.sqrt(noise[name] / max(signal[name], tiny)) for name in noise]
    return sum(errors) / max(len(errors), 1)


def _spaced(samples: Samples, count: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Some of the samples, each a batch of 1, evenly spaced."""
    total = len(next(iter(samples.values())))
    for number in sorted({int(i) for i in np.linspace(0, total - 1, min(count, total))}):
        yield {name: array[number : number + 1] for name, array in samples.items()}
