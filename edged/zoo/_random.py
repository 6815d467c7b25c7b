"""Random weights with which a network still behaves: seeded, and normalised by measurement.

Plain random weights let activations grow or die out over a hundred layers, and 8-bit numbers then
show nothing. So the network runs once, on a few made-up photographs, with every convolution's
output brought to mean 0 and variance 1 on the way, and what that took becomes part of the weights:
the running means and variances where there is batch norm, factors and biases where there is not
(as Mishkin and Matas, "All You Need Is a Good Init", 2015, but per channel and in one run).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference
from PIL import Image

from edged._onnxruntime import session
from edged.zoo._skeleton import INPUT, OPSET, Kind, Parameter, Skeleton

__all__ = ["IMAGENET_MEANS", "made_up_images", "random_weights"]

IMAGENET_MEANS: Final = (123.68, 116.779, 103.939)
_BATCH: Final = 4
_FEW_PIXELS: Final = 32
"""Fewer values than this of one channel, over the batch, say nothing about it alone."""
_LOGITS_DEVIATION: Final = 2.5
_NORMALISED_SCALE: Final = 20.0
"""Of conv4_3 in SSD, section 3.1 of the paper."""
_TINY: Final = 1e-3

_Floats = npt.NDArray[np.float32]


def made_up_images(height: int, width: int, count: int, seed: int = 0) -> _Floats:
    """Smooth noise at several scales in the range of photographs, minus the ImageNet means.

    Returns:
        float32 [count, height, width, 3].
    """
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        field = rng.standard_normal((height, width, 3))
        for coarse in (2, 4, 8, 16, 32):
            patch = rng.standard_normal((coarse, coarse, 3)).astype(np.float32) * 2.0
            planes = [
                Image.fromarray(patch[:, :, c]).resize((width, height), Image.Resampling.BILINEAR)
                for c in range(3)
            ]
            field += np.stack([np.asarray(plane) for plane in planes], axis=-1)
        field = (field - field.mean()) / field.std()
        pictures.append(np.clip(np.rint(127.5 + 64.0 * field), 0, 255) - IMAGENET_MEANS)
    return np.stack(pictures).astype(np.float32)


def random_weights(skeleton: Skeleton, seed: int) -> dict[str, _Floats]:
    """An array for every parameter of *skeleton*; the same seed gives the same."""
    rng = np.random.default_rng(seed)
    weights = {p.name: _drawn(rng, p) for p in skeleton.parameters}
    images = made_up_images(skeleton.height, skeleton.width, _BATCH, seed)
    _settle(skeleton, weights, _measured(skeleton, weights, images))
    return weights


def _drawn(rng: np.random.Generator, parameter: Parameter) -> _Floats:
    shape = parameter.shape
    match parameter.kind:
        case Kind.KERNEL | Kind.MATRIX:
            # He et al., "Delving Deep into Rectifiers", 2015.
            fan_in = math.prod(shape[1:]) if parameter.kind is Kind.KERNEL else shape[0]
            drawn = rng.standard_normal(shape, np.float32)
            drawn *= np.float32(math.sqrt(2.0 / fan_in))
            return drawn
        case Kind.GAMMA | Kind.BETA | Kind.BIAS:
            return rng.normal(*parameter.typical, shape).astype(np.float32)
        case Kind.SCALE:
            return np.full(shape, _NORMALISED_SCALE, np.float32)
        case Kind.VARIANCE:
            return np.ones(shape, np.float32)
        case Kind.MEAN:
            return np.zeros(shape, np.float32)


def _settle(
    skeleton: Skeleton,
    weights: dict[str, _Floats],
    measured: Mapping[str, tuple[_Floats, _Floats]],
) -> None:
    """Move what was *measured* at the outputs of nodes into *weights*."""
    for node in skeleton.nodes:
        if node.output[0] not in measured:
            continue
        mean, variance = measured[node.output[0]]
        if node.op_type == "BatchNormalization":
            _, _, _, running_mean, running_variance = node.input
            weights[running_mean], weights[running_variance] = mean, variance
            continue
        _, kernel, bias = node.input
        factor = 1.0 / np.sqrt(variance + _TINY**2)
        if node.op_type == "Gemm":
            factor = factor * _LOGITS_DEVIATION
            weights[kernel] *= factor
        else:
            weights[kernel] *= factor.reshape(-1, 1, 1, 1)
        weights[bias] -= mean * factor


def _measured(
    skeleton: Skeleton, weights: Mapping[str, _Floats], images: _Floats
) -> dict[str, tuple[_Floats, _Floats]]:
    """Mean and variance of each channel where they will be normalised, by the node's output."""
    twin = _Twin(skeleton)
    feeds = {INPUT: images, **weights}
    found = session(twin.model(len(images))).run(twin.statistics, feeds)
    results = dict(zip(twin.statistics, found, strict=True))
    return {
        name: (results[f"{name}/mean"].reshape(-1), results[f"{name}/variance"].reshape(-1))
        for name in twin.normalised
    }


class _Twin:
    """The network with each normalisation by what is measured in the same run.

    Attributes:
        normalised: outputs of nodes that are measured.
        statistics: names of the outputs of the twin: ``NAME/mean`` and ``NAME/variance`` of each.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self.normalised: list[str] = []
        self._skeleton = skeleton
        self._nodes: list[onnx.NodeProto] = []
        self._pixels = _pixels(skeleton)
        for node in skeleton.nodes:
            self._take(node)

    @property
    def statistics(self) -> list[str]:
        return [f"{name}/{what}" for name in self.normalised for what in ("mean", "variance")]

    def model(self, batch: int) -> bytes:
        arrays = [
            *((name, np.array(shape)) for name, shape in self._skeleton.shapes.items()),
            ("tiny", np.array(_TINY**2, np.float32)),
        ]
        graph = helper.make_graph(
            self._nodes,
            "statistics",
            # Weights are inputs: half a gigabyte need not go into a file and out again.
            [self._skeleton.input_value(), *self._skeleton.parameter_values()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.statistics],
            [numpy_helper.from_array(array, name) for name, array in arrays],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        return bytes(model.SerializeToString())

    def _take(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        if node.op_type == "BatchNormalization":
            source, gamma, beta, _, _ = node.input
            unit = self._unit(source, output)
            scaled = self._node("Mul", [unit, self._spread(gamma)])
            self._node("Add", [scaled, self._spread(beta)], output)
        elif node.op_type in ("Conv", "Gemm") and len(node.input) == 3:
            plain = onnx.NodeProto()
            plain.CopyFrom(node)
            plain.output[0] = f"{output}/plain"
            del plain.input[2]
            self._nodes.append(plain)
            unit = self._unit(plain.output[0], output)
            bias = node.input[2] if node.op_type == "Gemm" else self._spread(node.input[2])
            self._node("Add", [unit, bias], output)
        else:
            self._nodes.append(node)

    def _unit(self, source: str, name: str) -> str:
        """*source* brought to mean 0 and variance 1; the statistics are called after *name*."""
        self.normalised.append(name)
        pixels = self._pixels.get(name)
        if pixels is None:
            axes = [0, 1]
        elif pixels * _BATCH < _FEW_PIXELS:
            axes = [0, 1, 2, 3]
        else:
            axes = [0, 2, 3]
        mean = self._node("ReduceMean", [source], f"{name}/mean", axes=axes)
        apart = self._node("Sub", [source, mean])
        square = self._node("Mul", [apart, apart])
        variance = self._node("ReduceMean", [square], f"{name}/variance", axes=axes)
        deviation = self._node("Sqrt", [self._node("Add", [variance, "tiny"])])
        return self._node("Div", [apart, deviation])

    def _spread(self, parameter: str) -> str:
        """*parameter* [C] as [C, 1, 1]."""
        constant = numpy_helper.from_array(np.array([1, 2]))
        axes = f"{parameter}/axes"
        self._nodes.append(helper.make_node("Constant", [], [axes], value=constant))
        return self._node("Unsqueeze", [parameter, axes])

    def _node(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"x{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output


def _pixels(skeleton: Skeleton) -> dict[str, int]:
    """Height times width of every value that is an image."""
    graph = helper.make_graph(
        skeleton.nodes,
        "shapes",
        [skeleton.input_value(), *skeleton.parameter_values()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in skeleton.outputs],
        [numpy_helper.from_array(np.array(s), name) for name, s in skeleton.shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    return {name: shape[2] * shape[3] for name, shape in sizes.items() if len(shape) == 4}
