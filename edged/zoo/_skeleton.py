"""A network before it has weights: its operators, and what each of its parameters is."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "INPUT",
    "OPSET",
    "RECTIFIED",
    "Image",
    "Kind",
    "Parameter",
    "Skeleton",
    "Sketch",
    "same",
]

INPUT: Final = "Placeholder:0"
"""The image input of every network: float32 [N, height, width, 3], R, G, B minus their means."""

RECTIFIED: Final = (0.75, 0.2)
"""What is typical of offsets in front of a ReLU. At 0, where half of the values are cut off, random
networks are chaotic: in each layer small errors, such as those of quantisation, grow faster than
the values do. Trained networks are not."""

OPSET: Final = 17
_IR_VERSION: Final = 8
_EPSILON: Final = 1e-5

_Floats = npt.NDArray[np.float32]


class Kind(enum.Enum):
    """What a parameter does; how TensorFlow lays it out follows from that."""

    KERNEL = "kernel"
    """[out, in, height, width]; TensorFlow: [height, width, in, out]."""
    MATRIX = "matrix"
    """[in, out]; TensorFlow: [1, 1, in, out], a convolution, or [in, out]."""
    BIAS = "bias"
    GAMMA = "gamma"
    BETA = "beta"
    MEAN = "mean"
    VARIANCE = "variance"
    SCALE = "scale"
    """Of the normalised map, [channels, 1, 1]; TensorFlow: [channels]."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One array that a network needs.

    Attributes:
        name: TensorFlow's variable, of which the ONNX initializer takes the name.
        shape: as the ONNX graph has it.
        typical: mean and deviation of biases, gammas and betas, for random ones.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    typical: tuple[float, float] = (0.0, 0.2)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def trainable(self) -> bool:
        """Whether papers count it: running means and variances are statistics."""
        return self.kind not in (Kind.MEAN, Kind.VARIANCE)

    @property
    def tensorflow_shape(self) -> tuple[int, ...]:
        match self.kind:
            case Kind.KERNEL:
                out, into, height, width = self.shape
                return height, width, into, out
            case Kind.MATRIX:
                return 1, 1, *self.shape
            case Kind.SCALE:
                return self.shape[:1]
        return self.shape

    def from_tensorflow(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """*array*, which has :attr:`tensorflow_shape`, as the graph wants it."""
        return (
            array.transpose(3, 2, 0, 1) if self.kind is Kind.KERNEL else array.reshape(self.shape)
        )


@dataclass(frozen=True, slots=True)
class Image:
    """A value [N, channels, height, width] of the network."""

    name: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """A network as a graph without weights.

    Attributes:
        nodes: ONNX operators in order.
        parameters: in the order of their first use.
        shapes: constants that Reshape takes.
        height, width: of the image that :data:`INPUT` takes.
        outputs: tensor name to shape, the batch left out.
        features: name and shape, the batch left out, of the tensor between featurizer and
            classifier; None where there is no such cut.
        macs: multiply-accumulates of all convolutions and matrices for one image.
    """

    nodes: tuple[onnx.NodeProto, ...]
    parameters: tuple[Parameter, ...]
    shapes: Mapping[str, tuple[int, ...]]
    height: int
    width: int
    outputs: Mapping[str, tuple[int, ...]]
    features: tuple[str, tuple[int, ...]] | None
    macs: int

    @property
    def trainable(self) -> int:
        """The number that papers give as that of parameters."""
        return sum(parameter.size for parameter in self.parameters if parameter.trainable)

    def model(
        self, weights: Mapping[str, _Floats], title: str, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The ONNX model with *weights*, which has an array for every parameter."""
        graph = helper.make_graph(
            list(self.nodes),
            title,
            [self.input_value()],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
                for name, shape in self.outputs.items()
            ],
            [numpy_helper.from_array(np.array(s), name) for name, s in self.shapes.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
        )
        for parameter in self.parameters:
            # In place: helpers copy half a gigabyte of weights more than once.
            tensor = model.graph.initializer.add(
                name=parameter.name, data_type=TensorProto.FLOAT, dims=parameter.shape
            )
            tensor.raw_data = weights[parameter.name].astype("<f4", copy=False).tobytes()
        model.producer_name = "edged.zoo"
        helper.set_model_props(model, dict(metadata))
        return model

    def parameter_values(self) -> list[onnx.ValueInfoProto]:
        """The parameters as inputs of a graph."""
        return [
            helper.make_tensor_value_info(p.name, TensorProto.FLOAT, p.shape)
            for p in self.parameters
        ]

    def input_value(self) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            INPUT, TensorProto.FLOAT, ["N", self.height, self.width, 3]
        )


class Sketch:
    """A skeleton as it is drawn, operator by operator; scopes are TensorFlow's."""

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._nodes: list[onnx.NodeProto] = []
        self._parameters: list[Parameter] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._macs = 0

    def image(self) -> Image:
        """The input, in the order of the dimensions that ONNX's operators want."""
        self._node("Transpose", [INPUT], "images/nchw:0", perm=[0, 3, 1, 2])
        return Image("images/nchw:0", 3, *self._size)

    def conv(
        self,
        x: Image,
        scope: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        pad: tuple[int, int] | None = None,
        bias: tuple[float, float] | None = None,
    ) -> Image:
        """A square convolution; *pad* before and after, by default TensorFlow's SAME.

        Args:
            bias: what is typical of it; None if there is none.
        """
        before, after = same(x.height, kernel, stride, dilation) if pad is None else pad
        inputs = [
            x.name,
            self._parameter(f"{scope}/weights", Kind.KERNEL, channels, x.channels, kernel, kernel),
        ]
        if bias is not None:
            inputs.append(self._parameter(f"{scope}/biases", Kind.BIAS, channels, typical=bias))
        y = _window(x, f"{scope}/Conv2D:0", channels, kernel, stride, dilation, (before, after))
        self._node(
            "Conv",
            inputs,
            y.name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            dilations=[dilation, dilation],
            pads=[before, before, after, after],
        )
        self._macs += y.channels * y.height * y.width * x.channels * kernel * kernel
        return y

    def batch_norm(
        self,
        x: Image,
        scope: str,
        gamma: tuple[float, float] = (1.0, 0.25),
        beta: tuple[float, float] = RECTIFIED,
    ) -> Image:
        """Batch norm; *gamma* and *beta* say what is typical of them."""
        inputs = [x.name] + [
            self._parameter(f"{scope}/BatchNorm/{name}", kind, x.channels, typical=typical)
            for name, kind, typical in (
                ("gamma", Kind.GAMMA, gamma),
                ("beta", Kind.BETA, beta),
                ("moving_mean", Kind.MEAN, (0.0, 0.0)),
                ("moving_variance", Kind.VARIANCE, (1.0, 0.0)),
            )
        ]
        y = replace(x, name=f"{scope}/BatchNorm:0")
        self._node("BatchNormalization", inputs, y.name, epsilon=_EPSILON)
        return y

    def relu(self, x: Image, scope: str) -> Image:
        y = replace(x, name=f"{scope}/Relu:0")
        self._node("Relu", [x.name], y.name)
        return y

    def add(self, a: Image, b: Image, scope: str) -> Image:
        y = replace(a, name=f"{scope}/add:0")
        self._node("Add", [a.name, b.name], y.name)
        return y

    def concat(self, a: Image, b: Image, scope: str) -> Image:
        y = replace(a, name=f"{scope}/concat:0", channels=a.channels + b.channels)
        self._node("Concat", [a.name, b.name], y.name, axis=1)
        return y

    def max_pool(
        self,
        x: Image,
        scope: str,
        kernel: int,
        stride: int,
        pad: tuple[int, int] | None = None,
    ) -> Image:
        """A square max pool; *pad* as for :meth:`conv`."""
        before, after = same(x.height, kernel, stride) if pad is None else pad
        y = _window(x, f"{scope}/MaxPool:0", x.channels, kernel, stride, 1, (before, after))
        self._node(
            "MaxPool",
            [x.name],
            y.name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
        )
        return y

    def average_pool(self, x: Image, scope: str, kernel: int) -> Image:
        """A square average pool whose stride is its size."""
        y = _window(x, f"{scope}/AvgPool:0", x.channels, kernel, kernel, 1, (0, 0))
        sides = [kernel, kernel]
        self._node("AveragePool", [x.name], y.name, kernel_shape=sides, strides=sides)
        return y

    def global_average(self, x: Image, name: str) -> Image:
        y = Image(name, x.channels, 1, 1)
        self._node("GlobalAveragePool", [x.name], name)
        return y

    def normalised(self, x: Image, scope: str) -> Image:
        """Each pixel's channels divided by their Euclidean length, times a learned scale."""
        gamma = self._parameter(f"{scope}/gamma", Kind.SCALE, x.channels, 1, 1)
        self._node("LpNormalization", [x.name], f"{scope}/l2_normalize:0", axis=1, p=2)
        y = replace(x, name=f"{scope}/mul:0")
        self._node("Mul", [f"{scope}/l2_normalize:0", gamma], y.name)
        return y

    def channels_last(self, x: Image, name: str) -> tuple[str, tuple[int, int, int]]:
        """The name and the shape of *x* as [N, height, width, channels]."""
        self._node("Transpose", [x.name], name, perm=[0, 2, 3, 1])
        return name, (x.height, x.width, x.channels)

    def reshape(self, source: str, name: str, shape: Sequence[int]) -> None:
        """*source* as [N, *shape*]."""
        constant = f"{name.removesuffix(':0')}/shape"
        self._shapes[constant] = (0, *shape)  # 0 is for the batch, as it comes.
        self._node("Reshape", [source, constant], name)

    def classifier(
        self, features: tuple[str, tuple[int, int, int]], scope: str, logits: str, classes: int
    ) -> None:
        """One matrix from features [N, 1, 1, C] to *logits* [N, classes]."""
        name, (_, _, channels) = features
        self.reshape(name, f"{scope}/flat:0", (channels,))
        matrix = self._parameter(f"{scope}/weights", Kind.MATRIX, channels, classes)
        bias = self._parameter(f"{scope}/biases", Kind.BIAS, classes)
        self._node("Gemm", [f"{scope}/flat:0", matrix, bias], logits)
        self._macs += channels * classes

    def softmax(self, source: str, name: str) -> None:
        self._node("Softmax", [source], name, axis=-1)

    def finish(
        self,
        outputs: Mapping[str, tuple[int, ...]],
        features: tuple[str, tuple[int, ...]] | None = None,
    ) -> Skeleton:
        height, width = self._size
        return Skeleton(
            tuple(self._nodes),
            tuple(self._parameters),
            dict(self._shapes),
            height,
            width,
            dict(outputs),
            features,
            self._macs,
        )

    def _parameter(
        self, name: str, kind: Kind, *shape: int, typical: tuple[float, float] = (0.0, 0.2)
    ) -> str:
        self._parameters.append(Parameter(name, kind, shape, typical))
        return name

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        name = output.removesuffix(":0")
        self._nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))


def same(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis, before and after: ⌈size / stride⌉ values come out."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _window(
    x: Image,
    name: str,
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    pad: tuple[int, int],
) -> Image:
    height, width = (
        (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
        for size in (x.height, x.width)
    )
    return Image(name, channels, height, width)
