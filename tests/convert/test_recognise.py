"""Image preprocessing is read off graphs as TensorFlow writes them, or refused by its operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edged import wire
from edged.convert import Graph, Node, read_graph, recognise
from edged.errors import ModelError
from edged.preprocess import Channels, Preprocess, Sampling, Transform, apply

GRAPHS = Path(__file__).parent / "graphs"
OUTPUT = "classifier/predictions/Softmax:0"
SOURCE = "Placeholder:0"
FLOAT, INT, STRING = 1, 3, 7
ACCURATE = b"INTEGER_ACCURATE"


def graph(name: str) -> Graph:
    return read_graph((GRAPHS / f"{name}.pb").read_bytes())


@pytest.mark.parametrize(
    ("name", "transform", "size", "options"),
    [
        # What the original tutorial builds, in the loops of TensorFlow 1 and of TensorFlow 2.
        ("imagenet-tf1", Transform.IMAGENET, (224, 224), {}),
        ("imagenet-tf2", Transform.IMAGENET, (224, 224), {}),
        ("ssd-tf1", Transform.SSD, (300, 300), {}),
        ("unit-tf1", Transform.STRETCH, (32, 24), {"scale": 1 / 127.5, "mean": (1, 1, 1)}),
        ("unit-single", Transform.STRETCH, (32, 24), {"scale": 1 / 127.5, "mean": (1, 1, 1)}),
        (
            "modern-tf1",
            Transform.CROP,
            (32, 32),
            {
                "short": 48,
                "scale": 1 / 255,
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
            },
        ),
    ],
)
def test_what_is_recognised(
    name: str, transform: Transform, size: tuple[int, int], options: dict[str, object]
) -> None:
    found = recognise(graph(name), SOURCE, [OUTPUT])
    assert found.source == SOURCE
    spec = found.preprocess
    assert isinstance(spec, Preprocess)
    assert (spec.transform, spec.height, spec.width) == (transform, *size)
    assert (spec.input, spec.dtype, spec.layout) == (SOURCE, "float32", "NHWC")
    if options:
        assert spec.sampling is Sampling.TF1
    for key, value in options.items():
        assert getattr(spec, key) == pytest.approx(value, rel=1e-5), key


CAFFE = {"mean": (103.939, 116.779, 123.68), "scale": 1, "std": (1, 1, 1)}
PADDED = {"mean": (102.939, 114.779, 120.68), "scale": 1, "std": (1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "transform", "size", "options"),
    [
        ("bgr-tf1", Transform.STRETCH, (32, 32), CAFFE),
        ("bgr_reverse-tf1", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_slice-tf1", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_slice-tf2", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_split-tf1", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_split_at-tf1", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_unstack-tf1", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_gather-tf1", Transform.STRETCH, (32, 24), CAFFE),
        ("bgr_bias-tf1", Transform.STRETCH, (32, 24), PADDED),
        ("bgr_imagenet-tf1", Transform.IMAGENET, (224, 224), {}),
    ],
)
def test_blue_first_is_recognised_and_each_mean_stays_with_its_colour(
    name: str, transform: Transform, size: tuple[int, int], options: dict[str, object]
) -> None:
    spec = recognise(graph(name), SOURCE, [OUTPUT]).preprocess
    assert (spec.transform, spec.height, spec.width) == (transform, *size)
    assert spec.channels is Channels.BGR
    for key, value in options.items():
        assert getattr(spec, key) == pytest.approx(value, rel=1e-5), key
    # One plain colour, whose channels and means are all different.
    pixels = np.full((300, 300, 3), (200, 100, 50), np.uint8)
    means = options["mean"] if options else CAFFE["mean"]
    expected = np.array([50, 100, 200]) - np.array(means)
    np.testing.assert_allclose(apply(pixels, spec)[0, 5, 7], expected, atol=1e-3)


def test_channels_in_another_order_are_refused_without_advice_that_would_swap_them() -> None:
    with pytest.raises(
        ModelError, match=r"in the order R, G, B or B, G, R; at .* reordered"
    ) as caught:
        recognise(graph("gbr-tf1"), SOURCE, [OUTPUT])
    assert "--preprocess" not in str(caught.value)


def test_the_network_is_what_is_behind_the_loop() -> None:
    assert recognise(graph("imagenet-tf1"), SOURCE, [OUTPUT]).tensor == (
        "map/TensorArrayStack/TensorArrayGatherV3:0"
    )
    assert recognise(graph("imagenet-tf2"), SOURCE, [OUTPUT]).tensor == (
        "map/TensorArrayV2Stack/TensorListStack:0"
    )
    assert recognise(graph("unit-single"), SOURCE, [OUTPUT]).tensor == "ExpandDims_1:0"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nearest", r"ResizeNearestNeighbor 'map/while/ResizeNearestNeighbor': it is no part"),
        ("half_pixel", r"ResizeBilinear '.*': it resizes with half_pixel_centers=True"),
        ("contrast", r"AdjustContrastv2 'map/while/adjust_contrast': it is no part"),
        ("grey", r"DecodePng '.*': it decodes to channels=1; wanted 3"),
        ("random", r"RandomUniformInt 'map/while/random_uniform': it is no part"),
        ("gamma", r"with Minimum '.*' it is none of the transforms .*stretch of 32x32"),
    ],
)
def test_what_is_not_recognised_is_refused_by_its_operator(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        recognise(graph(f"{name}-tf1"), SOURCE, [OUTPUT])
    assert str(caught.value).startswith("cannot recognise the image preprocessing: ")
    assert "--input" in str(caught.value) and "--preprocess" in str(caught.value)


def constant(name: str, value: object, dtype: object = np.float32) -> Node:
    return Node(name, "Const", (), {"value": wire.from_array(np.asarray(value, dtype))})


def small(*middle: Node, image: str = "scaled") -> Graph:
    """A graph by hand: one image, resized to 8x8 and scaled; *middle* comes before the network."""
    nodes = [
        Node("source", "Placeholder", (), {"dtype": STRING, "shape": wire.TensorShapeProto()}),
        Node("decoded", "DecodeJpeg", ("source",), {"channels": 3}),
        Node("axis", "Const", (), {"value": wire.from_array(np.array(0, np.int32))}),
        Node("batch", "ExpandDims", ("decoded", "axis")),
        constant("size", [8, 8], np.int32),
        Node("resized", "ResizeBilinear", ("batch", "size")),
        constant("factor", 1 / 255),
        Node("scaled", "Mul", ("resized", "factor")),
        *middle,
        constant("kernel", np.zeros((3, 3, 3, 2))),
        Node("network", "Conv2D", (image, "kernel")),
    ]
    return Graph(nodes)


def test_a_graph_by_hand() -> None:
    found = recognise(small(), "source", ["network"])
    assert (found.tensor, found.source) == ("scaled:0", "source:0")
    assert found.preprocess.scale == pytest.approx(1 / 255)


def test_what_the_network_asks_of_the_image_is_no_way_around_it() -> None:
    # The size of the batch, which a Reshape behind the network wants.
    asked = Node("asked", "Shape", ("scaled",))
    network = small(asked)
    nodes = [*network.nodes.values(), Node("end", "Reshape", ("network", "asked"))]
    assert recognise(Graph(nodes), "source", ["end"]).tensor == "scaled:0"


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node("odd", "Softplus", ("decoded",)), "Softplus 'odd': it is no part"),
        (Node("odd", "DecodePng", ("source",), {"channels": 0}), "channels=0; wanted 3"),
        (
            Node("odd", "DecodeJpeg", ("source",), {"channels": 3, "ratio": 2}),
            r"at a part of the size \(ratio\)",
        ),
        (
            Node("odd", "DecodeJpeg", ("source",), {"channels": 3, "dct_method": ACCURATE}),
            "another DCT than TensorFlow's default",
        ),
        (
            Node("odd", "DecodeJpeg", ("source",), {"channels": 3, "fancy_upscaling": False}),
            "with fancy_upscaling=False",
        ),
        (Node("odd", "Slice", ("decoded", "size", "size")), "Slice 'odd': it cannot be followed"),
        (Node("odd", "DecodeRaw", ("source",)), "DecodeRaw 'odd': it is no part"),
        (Node("odd", "Merge", ("odd2", "odd3")), "Placeholder 'odd2': it is no part"),
    ],
)
def test_operators_that_stop_it(node: Node, said: str) -> None:
    others = [Node("odd2", "Placeholder"), Node("odd3", "Placeholder")]
    base = small(*others)
    nodes = [*base.nodes.values(), node, Node("sum", "AddV2", ("odd", "decoded"))]
    nodes = [n for n in nodes if n.name != "batch"]
    nodes.append(Node("batch", "ExpandDims", ("sum", "axis")))
    with pytest.raises(ModelError, match=said):
        recognise(Graph(nodes), "source", ["network"])


def test_an_output_that_does_not_depend_on_the_image() -> None:
    with pytest.raises(ModelError, match="no output depends on Placeholder 'source'"):
        recognise(small(), "source", ["kernel"])


def test_images_of_any_size_are_no_input_for_the_device() -> None:
    nodes = [node for node in small().nodes.values() if node.name not in ("resized", "scaled")]
    nodes += [Node("real", "Cast", ("batch",), {"DstT": FLOAT})]
    nodes += [Node("scaled", "Mul", ("real", "factor"))]
    with pytest.raises(ModelError, match="stopped at Conv2D 'network'"):
        recognise(Graph(nodes), "source", ["network"])


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(ModelError, match="it is no GraphDef"):
        read_graph(b"\xff" * 100)
    message = wire.GraphDef()
    message.node.add(name="a", op="Identity", input=["b"])
    with pytest.raises(ModelError, match="Identity 'a' reads 'b', which is not there"):
        read_graph(message.SerializeToString())


def test_loops_and_long_chains_end() -> None:
    chain = [Node("c0", "Identity", ("decoded",))]
    chain += [Node(f"c{i}", "Identity", (f"c{i - 1}",)) for i in range(1, 150)]
    base = [node for node in small().nodes.values() if node.name != "batch"]
    nodes = [*base, *chain, Node("batch", "ExpandDims", ("c149", "axis"))]
    assert recognise(Graph(nodes), "source", ["network"]).tensor == "scaled:0"
    round_about = [Node("a", "AddV2", ("b", "decoded")), Node("b", "Identity", ("a",))]
    nodes = [*base, *round_about, Node("batch", "ExpandDims", ("a", "axis"))]
    with pytest.raises(ModelError, match="the way to it is too long"):
        recognise(Graph(nodes), "source", ["network"])
