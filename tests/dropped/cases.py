"""What people drop, and what they expect of it: models of every age and kind, files that are none.

Each names the situation that people report; the model of a case is a small network with random
weights, so that refusals are exact and errors show mechanisms.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from dropped.forms import FORMS, Form
from dropped.nets import network, smooth
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Case", "Inputs", "cases"]

Inputs = Mapping[str, npt.NDArray[np.generic]]
COUNT = 8
"""Samples that a model is asked with."""


@dataclass(frozen=True)
class Case:
    """Something that is dropped.

    Attributes:
        kind: of situation.
        name: of the case, and of the file without its suffix.
        aim: what is wanted, in words.
        model: the network; None for what is no model.
        inputs: samples of each input by name, the first dimension counts them; None for noise of
            the shapes that the model declares.
        put: drops it: given the model's file and the drop folder, returns the name in there.
        pack: options of ``edgectl pack``, where it is packed before; its samples and the rest.
        most_error: for a model: the error with which it is as wanted.
        says: for what is to be refused or passed over: a word that the status file has.
        refusal_will_do: whether a refusal that says *says* is as good as an answer.
    """

    kind: str
    name: str
    aim: str
    model: Callable[[], onnx.ModelProto] | None = None
    inputs: Callable[[], Inputs] | None = None
    put: Callable[[Path, Path], str] = field(
        default=lambda file, drop: Path(shutil.copy(file, drop)).name
    )
    pack: tuple[str, ...] = ()
    most_error: float = 0.15
    says: str = ""
    refusal_will_do: bool = False


def cases() -> Iterator[Case]:
    """All of them, in the order of the table."""
    for part in (
        _new_and_old,
        _two_files,
        _sizes,
        _ranges,
        _heads,
        _regression,
        _precision,
        _one_dimensional,
        _inputs,
        _passed_through,
        _things,
        _forms,
    ):
        yield from part()


SERVES = "serves, {:.0%} error at most"


def _served(kind: str, name: str, model: Callable[[], onnx.ModelProto], **more: object) -> Case:
    most = float(more.get("most_error", 0.15))  # type: ignore[arg-type]  # a number
    return Case(kind, name, SERVES.format(most), model, **more)  # type: ignore[arg-type]  # as Case has them


def _classifier(
    opset: int = 17, ir: int = 8, *, input: str = "float[N,3,32,32] input", softmax: bool = False
) -> onnx.ModelProto:
    name = input.rpartition(" ")[2]
    last = "g = {0}\noutput = Softmax<axis=-1>(g)" if softmax else "output = {0}"
    return network(
        input,
        "float[N,10] output",
        f"a = Conv<pads=[1,1,1,1]>({name}, w[16,3,3,3], b[16])\nc = Relu(a)\n"
        "d = Conv<pads=[1,1,1,1], strides=[2,2]>(c, w[32,16,3,3], b[32])\ne = Relu(d)\n"
        "p = GlobalAveragePool(e)\nv = Flatten(p)\n"
        + last.format("Gemm<transB=1>(v, w[10,32], b[10])"),
        opset=opset,
        ir=ir,
    )


def _new_and_old() -> Iterator[Case]:
    for opset in (20, 21, 23, 25):
        yield _served(
            "opset 21 and newer",
            f"opset-{opset}",
            lambda opset=opset: _classifier(opset, 10, softmax=True),
        )
    yield _served(
        "opset 21 and newer",
        "group-norm-21",
        lambda: network(
            "float[N,3,24,24] input",
            "float[N,24,24,32] map",
            "a = Conv<pads=[1,1,1,1]>(input, w[16,3,3,3], b[16])\nc = Relu(a)\n"
            "g = GroupNormalization<num_groups=4>(c, ramp[1,1], ramp[0,0])\n"
            "d = Conv<pads=[1,1,1,1]>(g, w[32,16,3,3], b[32])\ne = Relu(d)\n"
            "map = Transpose<perm=[0,2,3,1]>(e)",
            opset=21,
            ir=10,
        ),
    )
    for ir, opset in ((11, 23), (12, 24), (13, 25), (14, 26), (14, 27), (14, 28), (14, 17)):
        yield Case(
            "newer than the runtime knows",
            f"ir-{ir}-opset-{opset}",
            "serves, or is refused with a cure",
            lambda ir=ir, opset=opset: _classifier(opset, ir),
            says="wanted",
            refusal_will_do=True,
        )
    for name, opset, line in _OLD:
        yield _served(
            "opsets 7 to 10",
            f"old-{name}",
            lambda opset=opset, line=line: _old(opset, line),
            inputs=lambda: {"data": smooth((3, 32, 32), COUNT)},
        )


_OLD = (
    *((f"plain-{opset}", opset, "y = Identity(x)") for opset in (7, 8, 9, 10)),
    ("clip-7", 7, "y = Clip<min=0.0, max=6.0>(x)"),
    ("clip-10", 10, "y = Clip<min=0.0, max=6.0>(x)"),
    (
        "upsample-7",
        7,
        'u = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(x)\n'
        "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(u)",
    ),
    (
        "upsample-9",
        9,
        'u = Upsample<mode="nearest">(x, f[1,1,2,2])\n'
        "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(u)",
    ),
    (
        "resize-10",
        10,
        'u = Resize<mode="nearest">(x, f[1,1,2,2])\n'
        "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(u)",
    ),
    ("pad-9", 9, 'y = Pad<mode="constant", pads=[0,0,1,1,0,0,1,1], value=0.0>(x)'),
    ("lrn-8", 8, "y = LRN<size=5>(x)"),
    ("slice-9", 9, "y = Slice<axes=[2,3], starts=[1,1], ends=[31,31]>(x)"),
    ("prelu-9", 9, "y = PRelu(x, rampc[.1,.1])"),
)


def _old(opset: int, line: str) -> onnx.ModelProto:
    """As model zoos had them: weights among the inputs, a batch of one."""
    model = network(
        "float[1,3,32,32] data",
        "float[1,10] prob",
        "a = Conv<pads=[1,1,1,1]>(data, w[16,3,3,3], b[16])\n"
        "n_ = BatchNormalization(a, ramp[.6,1.4], ramp[-.3,.3], ramp[-.2,.2], ramp[.5,1.5])\n"
        f"x = Relu(n_)\n{line}\n"
        "d = Conv<pads=[1,1,1,1], strides=[2,2]>(y, w[32,16,3,3], b[32])\ne = Relu(d)\n"
        "p = GlobalAveragePool(e)\nq = Dropout<ratio=0.5>(p)\nv = Flatten(q)\n"
        "g = Gemm<transB=1>(v, w[10,32], b[10])\nprob = Softmax<axis=1>(g)",
        opset=opset,
        ir=3,
    )
    model.graph.input.extend(
        helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
        for each in model.graph.initializer
    )
    return model


def _two_files() -> Iterator[Case]:
    kind = "PyTorch's two files"
    for order in ("model first", "data first"):
        yield Case(
            kind,
            f"two-files-{order.replace(' ', '-')}",
            SERVES.format(0.15),
            lambda: _classifier(18, 10),
            put=lambda file, drop, order=order: _put_pair(file, drop, order == "data first"),
        )
    yield Case(
        kind,
        "two-files-in-a-folder",
        SERVES.format(0.15),
        lambda: _classifier(18, 10),
        put=_put_pair_in_folder,
    )


def _split(file: Path, folder: Path) -> tuple[Path, Path]:
    """The model in two files in *folder*."""
    folder.mkdir(exist_ok=True)
    data = f"{file.name}.data"
    onnx.save(
        onnx.load(file),
        folder / file.name,
        save_as_external_data=True,
        location=data,
        size_threshold=0,
    )
    return folder / file.name, folder / data


def _put_pair(file: Path, drop: Path, data_first: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        pair = _split(file, Path(folder))
        for each in reversed(pair) if data_first else pair:
            shutil.copy(each, drop)
    return file.name


def _put_pair_in_folder(file: Path, drop: Path) -> str:
    _split(file, drop / file.stem)
    return file.stem


def _sizes() -> Iterator[Case]:
    def free() -> onnx.ModelProto:
        return _classifier(input="float[batch,3,height,width] images")

    yield Case(
        "free height and width",
        "free-size",
        "refused with the command that helps",
        free,
        says="edgectl pack",
    )
    yield Case(
        "free height and width",
        "free-size-packed",
        SERVES.format(0.15),
        free,
        inputs=lambda: {
            "images": np.clip(0.2 * smooth((3, 64, 64), COUNT) + 0.5, 0, 1).astype(np.float32)
        },
        pack=("--preprocess", "stretch=64x64,scale=1/255"),
    )


# Kind of input, its spread, its middle.
_RANGES = {
    "unit": (0.2, 0.5),
    "byte": (55.0, 120.0),
    "normalised": (1.0, 0.0),
    "decibel": (15.0, -40.0),
    "tiny": (1e-3, 0.0),
}
_LIMITS = {"unit": (0, 1), "byte": (0, 255), "decibel": (-80, 0)}


def _ranges() -> Iterator[Case]:
    for name, (spread, middle) in _RANGES.items():
        yield Case(
            "a bare model, inputs of every range",
            f"range-{name}",
            "serves, 15% error at most, or is refused with a cure",
            lambda spread=spread, middle=middle: _ranged(spread, middle),
            inputs=lambda name=name, spread=spread, middle=middle: {
                "input": np.clip(
                    smooth((3, 32, 32), COUNT) * spread + middle, *_LIMITS.get(name, (-1e9, 1e9))
                ).astype(np.float32)
            },
            says="--calibration",
            refusal_will_do=True,
        )


def _ranged(spread: float, middle: float) -> onnx.ModelProto:
    """The first layer is made for inputs of that spread and middle, as training makes it."""
    model = network(
        "float[N,3,32,32] input",
        "float[N,10] output",
        "a = Conv<pads=[1,1,1,1]>(input, w[16,3,3,3], b[16])\nc = Relu(a)\n"
        "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)\n"
        "d = Conv<pads=[1,1,1,1]>(m, w[32,16,3,3], b[32])\ne = Relu(d)\n"
        "g = Conv<pads=[1,1,1,1], strides=[2,2]>(e, w[32,32,3,3], b[32])\nh = Relu(g)\n"
        "p = GlobalAveragePool(h)\nv = Flatten(p)\noutput = Gemm<transB=1>(v, w[10,32], b[10])",
        opset=13,
        seed=4,
    )
    weights, bias = (numpy_helper.to_array(each).copy() for each in model.graph.initializer[:2])
    weights /= np.float32(spread)
    bias -= weights.sum((1, 2, 3)) * np.float32(middle)
    for place, values in enumerate((weights, bias)):
        constant = model.graph.initializer[place]
        constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    return model


_TRUNK = (
    "a = Conv<pads=[1,1,1,1]>(input, w[16,3,3,3], b[16])\nc = Relu(a)\n"
    "d = Conv<pads=[1,1,1,1]>(c, w[24,16,3,3], b[24])\nx = Relu(d)\n"
)
_POOLED = "p = GlobalAveragePool(x)\nv = Flatten(p)\n"
_HEADS = (
    (
        "argmax-seg",
        "int64[N,48,48] mask",
        "y = Conv(x, w[5,24,1,1], b[5])\nmask = ArgMax<axis=1, keepdims=0>(y)",
    ),
    (
        "argmax-u8",
        "uint8[N,1,48,48] mask",
        "y = Conv(x, w[5,24,1,1], b[5])\nm = ArgMax<axis=1, keepdims=1>(y)\nmask = Cast<to=2>(m)",
    ),
    (
        "argmax-float",
        "float[N,48,48] mask",
        "y = Conv(x, w[5,24,1,1], b[5])\nm = ArgMax<axis=1, keepdims=0>(y)\nmask = Cast<to=1>(m)",
    ),
    (
        "mask-bool",
        "bool[N,1,48,48] mask",
        "y = Conv(x, w[1,24,1,1], b[1])\ns = Sigmoid(y)\nmask = Greater(s, f(0.5))",
    ),
    (
        "label-and-probability",
        "int64[N] label, float[N,100] probability",
        _POOLED + "g = Gemm<transB=1>(v, w[100,24], b[100])\n"
        "label = ArgMax<axis=1, keepdims=0>(g)\nprobability = Softmax<axis=1>(g)",
    ),
    (
        "topk5",
        "float[N,5] values, int64[N,5] indices",
        _POOLED + "g = Gemm<transB=1>(v, w[100,24], b[100])\ns = Softmax<axis=1>(g)\n"
        "values, indices = TopK<axis=1>(s, i[5])",
    ),
    (
        "nms-rows",
        "int64[dets,3] rows",
        "y = Conv(x, w[1,24,1,1], b[1])\ns = Sigmoid(y)\n"
        "r = Reshape(s, i[0,1,-1])\n"
        "rows = NonMaxSuppression(boxes, r, i[20], f[.5], f[.6])",
    ),
)


def _heads() -> Iterator[Case]:
    for name, outputs, body in _HEADS:
        yield Case(
            "integer and mask outputs",
            f"head-{name}",
            "serves, 10% of the elements differ at most",
            lambda outputs=outputs, body=body: _headed(outputs, body),
            inputs=lambda: {"input": smooth((3, 48, 48), COUNT)},
            most_error=1.0 if name in ("nms-rows", "topk5") else 0.1,
        )


def _headed(outputs: str, body: str) -> onnx.ModelProto:
    model = network("float[N,3,48,48] input", outputs, _TRUNK + body)
    if "boxes" in body:
        boxes = np.random.default_rng(3).uniform(0, 48, (1, 48 * 48, 4)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(boxes, "boxes"))
    return model


def _regression() -> Iterator[Case]:
    kind = "regression"
    dense = (
        "a = Gemm<transB=1>({0}, w[64,{1}], b[64])\nc = Relu(a)\n"
        "d = Gemm<transB=1>(c, w[64,64], b[64])\ne = Relu(d)\n"
    )
    yield _served(
        kind,
        "offset-300",
        lambda: network(
            "float[N,13] features",
            "float[N,1] kelvin",
            dense.format("features", 13) + "kelvin = Gemm<transB=1>(e, w[1,64], f[300])",
        ),
    )
    yield _served(
        kind, "box-and-confidence", _boxes, inputs=lambda: {"input": smooth((3, 32, 32), COUNT)}
    )
    yield _served(
        kind,
        "age",
        lambda: network(
            "float[N,3,32,32] input",
            "float[N,1] age",
            _TRUNK
            + _POOLED
            + "g = Gemm<transB=1>(v, w[1,24], b[1])\nm = Mul(g, f(12))\nage = Add(m, f(35))",
        ),
    )
    yield _served(
        kind,
        "mlp-iris",
        lambda: network(
            "float[N,4] iris",
            "float[N,3] probability",
            "a = Gemm<transB=1>(iris, w[16,4], b[16])\nc = Relu(a)\n"
            "g = Gemm<transB=1>(c, w[3,16], b[3])\nprobability = Softmax<axis=1>(g)",
        ),
    )
    middle, spread = np.array([0.5, 50, 5e4, 1e-3]), np.array([0.3, 30, 3e4, 5e-4])
    yield Case(
        kind,
        "raw-columns-normalised-inside",
        "serves, 15% error at most, or is refused with a cure",
        lambda: network(
            "float[N,4] raw",
            "float[N,2] y",
            "s = Sub(raw, f[0.5,50,50000,0.001])\nz = Div(s, f[0.3,30,30000,0.0005])\n"
            "a = Gemm<transB=1>(z, w[32,4], b[32])\nc = Relu(a)\n"
            "y = Gemm<transB=1>(c, w[2,32], b[2])",
        ),
        inputs=lambda: {
            "raw": (middle + spread * np.random.default_rng(9).normal(size=(COUNT, 4))).astype(
                np.float32
            )
        },
        says="--calibration",
        refusal_will_do=True,
    )


def _boxes() -> onnx.ModelProto:
    """Boxes in pixels and a confidence side by side."""
    model = network(
        "float[N,3,32,32] input",
        "float[N,5] boxes",
        _TRUNK + _POOLED + "boxes = Gemm<transB=1>(v, w[5,24], f[320,320,100,100,0])",
    )
    weights = next(each for each in model.graph.initializer if tuple(each.dims) == (5, 24))
    scaled = numpy_helper.to_array(weights) * np.float32([[200], [200], [60], [60], [1]])
    weights.CopyFrom(numpy_helper.from_array(scaled, weights.name))
    return model


def _precision() -> Iterator[Case]:
    for where in ("all", "inside", "weights"):
        yield _served(
            "half precision",
            f"half-{where}",
            lambda where=where: _halved(where),
            inputs=lambda where=where: {
                "input": smooth((3, 32, 32), COUNT).astype(
                    np.float16 if where == "all" else np.float32
                )
            },
        )
    for name in _QUANTISED:
        yield _served("quantised before", f"quantised-{name}", lambda name=name: _quantised(name))


def _halved(where: str) -> onnx.ModelProto:
    """The classifier with float16 everywhere, but for its ends, or in its weights only."""
    model = _classifier()
    casts = []
    for constant in model.graph.initializer:
        half = numpy_helper.to_array(constant).astype(np.float16)
        name = constant.name
        if where == "weights":
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
            name = f"{name}_half"
        constant.CopyFrom(numpy_helper.from_array(half, name))
    if where == "all":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    if where == "inside":
        first, last = model.graph.node[0], model.graph.node[-1]
        first.input[0], last.output[0] = "input_half", "output_half"
        casts = [helper.make_node("Cast", ["input"], ["input_half"], to=TensorProto.FLOAT16)]
        model.graph.node.append(
            helper.make_node("Cast", ["output_half"], ["output"], to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


_QUANTISED: dict[str, dict[str, object]] = {
    "qdq-u8s8": {"format": "QDQ", "activation": "QUInt8"},
    "qdq-s8s8-per-channel": {"format": "QDQ", "activation": "QInt8", "per_channel": True},
    "qdq-symmetric": {
        "format": "QDQ",
        "activation": "QInt8",
        "extra_options": {"ActivationSymmetric": True},
    },
    "qoperator": {"format": "QOperator", "activation": "QUInt8"},
    "dynamic": {},
}


def _quantised(name: str) -> onnx.ModelProto:
    """The classifier as ONNX Runtime's own tools quantise it."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Samples(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._samples = iter(smooth((3, 32, 32), 8))

        def get_next(self) -> Inputs | None:
            sample = next(self._samples, None)
            return None if sample is None else {"input": sample[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "float.onnx"), Path(folder, "made.onnx")
        onnx.save(_classifier(), source)
        options = dict(_QUANTISED[name])
        if not options:
            quantize_dynamic(str(source), str(made))
        else:
            quantize_static(
                str(source),
                str(made),
                Samples(),
                quant_format=QuantFormat[str(options.pop("format"))],
                activation_type=QuantType[str(options.pop("activation"))],
                weight_type=QuantType.QInt8,
                **options,
            )
        return onnx.load(made)


def _one_dimensional() -> Iterator[Case]:
    kind = "one dimension, and three"
    pairs = list(itertools.pairwise((6, 32, 32, 64)))
    torch = "".join(
        f"a{k} = Conv<pads=[2,2]>({'x' if k == 0 else f'm{k - 1}'}, w[{after},{before},5],"
        f" b[{after}])\nr{k} = Relu(a{k})\n"
        f"m{k} = MaxPool<kernel_shape=[2], strides=[2]>(r{k})\n"
        for k, (before, after) in enumerate(pairs)
    )
    yield _served(
        kind,
        "conv1d-torch",
        lambda: network(
            "float[N,6,128] x",
            "float[N,6] output",
            torch
            + "p = GlobalAveragePool(m2)\nv = Flatten(p)\n"
            + "output = Gemm<transB=1>(v, w[6,64], b[6])",
        ),
    )
    yield _served(
        kind,
        "conv1d-fcn",
        lambda: network(
            "float[N,6,128] x",
            "float[N,1,128] output",
            "a = Conv<pads=[2,2]>(x, w[32,6,5], b[32])\nc = Relu(a)\n"
            "d = Conv<pads=[2,2]>(c, w[32,32,5], b[32])\ne = Relu(d)\n"
            "g = Conv(e, w[1,32,1], b[1])\noutput = Sigmoid(g)",
        ),
    )
    keras = "".join(
        f"t{k} = Transpose<perm=[0,2,1]>({'x' if k == 0 else f'r{k - 1}'})\n"
        f"u{k} = Unsqueeze(t{k}, i[2])\n"
        f"a{k} = Conv<pads=[0,2,0,2]>(u{k}, w[{after},{before},1,5], b[{after}])\n"
        f"s{k} = Squeeze(a{k}, i[2])\nq{k} = Transpose<perm=[0,2,1]>(s{k})\nr{k} = Relu(q{k})\n"
        for k, (before, after) in enumerate(pairs)
    )
    yield _served(
        kind,
        "conv1d-keras",
        lambda: network(
            "float[N,128,6] x",
            "float[N,6] output",
            keras
            + "m = ReduceMean<axes=[1], keepdims=0>(r2)\n"
            + "g = Gemm<transB=1>(m, w[6,64], b[6])\noutput = Softmax<axis=-1>(g)",
        ),
    )
    yield Case(
        kind,
        "conv3d",
        "serves, or is refused and says why",
        lambda: network(
            "float[N,2,8,32,32] x",
            "float[N,5] output",
            "a = Conv<pads=[1,1,1,1,1,1]>(x, w[16,2,3,3,3], b[16])\nc = Relu(a)\n"
            "p = GlobalAveragePool(c)\nv = Flatten(p)\noutput = Gemm<transB=1>(v, w[5,16], b[5])",
        ),
        says="cannot",
        refusal_will_do=True,
    )


def _embedding(words: int) -> onnx.ModelProto:
    return network(
        "int64[N,40] ids",
        "float[N,4] y",
        f"e = Gather<axis=0>(n[{words},16], ids)\nm = ReduceMean<axes=[1], keepdims=0>(e)\n"
        "a = Gemm<transB=1>(m, w[32,16], b[32])\nc = Relu(a)\n"
        "y = Gemm<transB=1>(c, w[4,32], b[4])",
    )


_REST = "r_ = Relu(a)\np = GlobalAveragePool(r_)\nv = Flatten(p)\n"
_OUT = _REST + "output = Gemm<transB=1>(v, w[10,16], b[10])"
_CONV = "a = Conv<pads=[1,1,1,1]>({0}, w[16,{1},3,3], b[16])\n"
# Name, inputs, outputs, body.
_INPUT_FORMS = (
    (
        "image-and-meta",
        "float[N,3,32,32] image, float[N,5] meta",
        "float[N,4] y",
        _CONV.format("image", 3)
        + _REST
        + "k = Concat<axis=1>(v, meta)\ny = Gemm<transB=1>(k, w[4,21], b[4])",
    ),
    (
        "stereo",
        "float[N,3,32,32] left, float[N,3,32,32] right",
        "float[N,10] output",
        "x = Concat<axis=1>(left, right)\n" + _CONV.format("x", 6) + _OUT,
    ),
    (
        "uint8-nhwc",
        "uint8[N,32,32,3] pixels",
        "float[N,10] output",
        "c = Cast<to=1>(pixels)\nd = Div(c, f(255))\nx = Transpose<perm=[0,3,1,2]>(d)\n"
        + _CONV.format("x", 3)
        + _OUT,
    ),
    (
        "uint8-nchw",
        "uint8[N,3,32,32] pixels",
        "float[N,10] output",
        "c = Cast<to=1>(pixels)\nx = Div(c, f(255))\n" + _CONV.format("x", 3) + _OUT,
    ),
    ("batch-8", "float[8,3,32,32] x", "float[8,10] output", _CONV.format("x", 3) + _OUT),
    (
        "no-batch-chw",
        "float[3,32,32] image",
        "float[1,10] output",
        "x = Unsqueeze(image, i[0])\n" + _CONV.format("x", 3) + _OUT,
    ),
    (
        "no-batch-hwc",
        "float[32,32,3] image",
        "float[1,10] output",
        "u = Unsqueeze(image, i[0])\nx = Transpose<perm=[0,3,1,2]>(u)\n"
        + _CONV.format("x", 3)
        + _OUT,
    ),
    (
        "scalar-input",
        "float[N,3,32,32] x, float scale",
        "float[N,10] output",
        "a_ = Conv<pads=[1,1,1,1]>(x, w[16,3,3,3], b[16])\na = Mul(a_, scale)\n" + _OUT,
    ),
    (
        "double",
        "double[N,3,32,32] wide",
        "float[N,10] output",
        "x = Cast<to=1>(wide)\n" + _CONV.format("x", 3) + _OUT,
    ),
    (
        "scalar-output",
        "float[N,3,32,32] x",
        "float[N,10] output, float brightness",
        _CONV.format("x", 3) + _OUT + "\nbrightness = ReduceMean<axes=[0,1,2,3], keepdims=0>(x)",
    ),
    (
        "names-are-aliases",
        "float[N,3,28,28] images",
        "float[N,10] output_alias",
        _CONV.format("images", 3) + _OUT.replace("output =", "output_alias ="),
    ),
    ("all-free", "float[N,C,H,W] x", "float[N,10] output", _CONV.format("x", 3) + _OUT),
    (
        "declared-batch-wrong",
        "float[N,3,32,32] x",
        "float[5,10] output",
        _CONV.format("x", 3) + _OUT,
    ),
    (
        "unused-input",
        "float[N,3,32,32] x, float[N,7] unused",
        "float[N,10] output",
        _CONV.format("x", 3) + _OUT,
    ),
)
_MAY_BE_REFUSED = {"all-free", "batch-8", "no-batch-chw", "no-batch-hwc", "scalar-input", "double"}


def _inputs() -> Iterator[Case]:
    kind = "inputs of every form"
    for words in (60, 5000):
        yield _served(
            kind,
            f"embedding-of-{words}",
            lambda words=words: _embedding(words),
            inputs=lambda words=words: {
                "ids": np.random.default_rng(2).integers(0, words, (COUNT, 40))
            },
        )
    for name, inputs, outputs, body in _INPUT_FORMS:
        may_be_refused = name in _MAY_BE_REFUSED
        yield Case(
            kind,
            name,
            "serves, or is refused with a cure" if may_be_refused else SERVES.format(0.15),
            lambda inputs=inputs, outputs=outputs, body=body: network(inputs, outputs, body),
            says="fix it by" if may_be_refused else "",
            refusal_will_do=may_be_refused,
        )
    for name, change in _RENAMED.items():
        yield _served(kind, name, lambda change=change: _changed(change))


def _changed(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = _classifier()
    change(model)
    return model


def _rename_nodes(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = name

    return change


def _rename_ends(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "my input/0 (RGB)"
    model.graph.output[0].name = model.graph.node[-1].output[0] = "größe:0"


def _import_domains(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


_RENAMED = {
    "names-odd": _rename_ends,
    "names-empty": _rename_nodes(""),
    "names-the-same": _rename_nodes("same"),
    "domains-imported-but-unused": _import_domains,
}


def _passed_through() -> Iterator[Case]:
    kind = "an input handed through as an output"
    body = _CONV.format("x", 3) + _OUT
    size = "float[N,3,32,32] x, float[N,2] size"
    for name, inputs, outputs, more in (
        ("size", size, "float[N,10] output, float[N,2] size", ""),
        ("image", "float[N,3,32,32] x", "float[N,10] output, float[N,3,32,32] x", ""),
        ("identity", size, "float[N,10] output, float[N,2] same", "\nsame = Identity(size)"),
    ):
        yield _served(
            kind,
            f"through-{name}",
            lambda inputs=inputs, outputs=outputs, more=more: network(inputs, outputs, body + more),
        )


def _written(name: str, content: bytes) -> Callable[[Path, Path], str]:
    def put(_file: Path, drop: Path) -> str:
        path = drop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name.partition("/")[0]

    return put


def _repository(folder: str, *more: str) -> Callable[[Path, Path], str]:
    def put(file: Path, drop: Path) -> str:
        (drop / folder / "1").mkdir(parents=True)
        for name in more:
            (drop / folder / name).write_text('platform: "onnxruntime_onnx"\n')
        shutil.copy(file, drop / folder / "1" / "model.onnx")
        return folder

    return put


def _linked(file: Path, drop: Path) -> str:
    (drop / "linked.onnx").symlink_to(file)
    return "linked.onnx"


def _renamed(name: str) -> Callable[[Path, Path], str]:
    return lambda file, drop: Path(shutil.copy(file, drop / name)).name


_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 14196\n" % 0
_THINGS = (
    ("tensorflow-saved-model", _written("saved/saved_model.pb", b"\x08\x01"), "edgectl convert"),
    ("git-lfs-pointer", _written("lfs.onnx", _LFS), "git lfs pull"),
    ("web-page", _written("page.onnx", b"<!DOCTYPE html><html>404</html>"), "a web page"),
    ("empty-file", _written("empty.onnx", b""), "copy it again"),
    ("pytorch", _written("net.pt", b"\x80\x02\x8a\x0a"), "torch.onnx.export"),
    ("tensorflow-lite", _written("net.tflite", b"\x1c\0\0\0TFL3"), "--tflite net.tflite"),
    ("keras", _written("net.h5", b"\x89HDF\r\n\x1a\n"), "format='onnx'"),
    ("tensorrt-engine", _written("net.engine", b"ftrt\0\0\0\0"), "the ONNX file"),
    ("openvino", _written("net/net.xml", b"<?xml?><net>"), "a folder without a model"),
    ("zip-archive", _written("net.zip", b"PK\3\4" + bytes(26)), "unpack it"),
    ("compressed-tar", _written("net.tar.gz", b"\x1f\x8b\x08"), "unpack it"),
    ("labels", _written("labels.txt", b"ant\nbee\n"), "--labels"),
    ("photograph", _written("photo.jpg", b"\xff\xd8\xff\xe0"), "edgectl score"),
    ("symbolic-link", _linked, "copy the file itself"),
)


def _things() -> Iterator[Case]:
    kind = "folders, and files that are no model"
    for name, put in (
        ("triton-repository", _repository("resnet", "config.pbtxt")),
        ("tensorflow-serving-layout", _repository("served")),
        ("name-without-latin-letters", _renamed("猫分类.onnx")),
    ):
        yield Case(kind, name, SERVES.format(0.15), _classifier, put=put)
    for name, put, says in _THINGS:
        model = _classifier if name == "symbolic-link" else None
        yield Case(kind, name, "named, with what to do", model, put=put, says=says)


def _forms() -> Iterator[Case]:
    for form in FORMS:
        yield _served("forms of operators", form.name, form.model, inputs=_for(form))


def _for(form: Form) -> Callable[[], Inputs]:
    return lambda: {"input": smooth((3, form.side, form.side), COUNT)}
