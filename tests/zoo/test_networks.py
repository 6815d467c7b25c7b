"""The networks are those of the papers, under the names that the original service had."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from edged import zoo
from edged._onnxruntime import InferenceSession
from edged.errors import InputError, NotFoundError

PUBLISHED = {
    # Parameters exactly; multiply-accumulates in 10^9 as far as they are published.
    ("resnet-50", "paper"): (25_557_032, 3.8, 3.9),  # He et al., table 1: 3.8
    ("resnet-50", "v1.5"): (25_557_032, 4.08, 4.10),  # torchvision: 4.09
    ("resnet-50", "slim"): (25_557_032, 3.48, 3.49),  # TF-slim: 6.97e9 operations
    ("resnet-152", "paper"): (60_192_808, 11.2, 11.35),  # He et al., table 1: 11.3
    ("resnet-152", "v1.5"): (60_192_808, 11.5, 11.53),  # torchvision: 11.51
    ("resnet-152", "slim"): (60_192_808, 10.8, 11.0),
    ("densenet-121", "paper"): (7_978_856, 2.8, 2.9),  # the authors: 7.98 M and 2.83
    ("vgg-16", "paper"): (138_357_544, 15.46, 15.48),  # table 2: 138 M; 15.47
    ("ssd-vgg-300", "paper"): (26_285_486, 31.3, 31.4),  # the authors: 26.3 M and 31.4
    ("ssd-vgg-300", "service"): (26_285_486, 30.8, 31.0),
}
FEATURES = {
    "resnet-50": (1, 1, 2048),
    "resnet-152": (1, 1, 2048),
    "densenet-121": (1, 1, 1024),
    "vgg-16": (1, 1, 4096),
}
OUTPUTS = {
    "resnet-50": {"classifier_1/resnet_v1_50/predictions/Softmax:0": (1000,)},
    "resnet-152": {"classifier/resnet_v1_152/predictions/Softmax:0": (1000,)},
    "densenet-121": {"classifier/densenet121/predictions/Softmax:0": (1000,)},
    "vgg-16": {"classifier/vgg_16/fc8/squeezed:0": (1000,)},
}
SSD_MAPS = {4: (37, 4), 7: (19, 6), 8: (10, 6), 9: (5, 6), 10: (3, 4), 11: (1, 4)}


def test_every_variant_is_checked() -> None:
    assert set(PUBLISHED) == {
        (network.name, variant) for network in zoo.NETWORKS.values() for variant in network.variants
    }


@pytest.mark.parametrize(("name", "variant"), PUBLISHED, ids="-".join)
def test_parameters_and_macs_are_those_of_the_paper(name: str, variant: str) -> None:
    parameters, least, most = PUBLISHED[name, variant]
    skeleton = zoo.network(name).skeleton(variant=variant)
    assert skeleton.trainable == parameters
    assert least <= skeleton.macs / 1e9 <= most


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_layers_that_count(name: str) -> None:
    """The number in the name: convolutions and matrices with weights, shortcuts apart."""
    nodes = zoo.network(name).skeleton().nodes
    kinds = [node.op_type for node in nodes]
    weighted = kinds.count("Conv") + kinds.count("Gemm")
    shortcuts = sum(node.op_type == "Conv" and "/shortcut/" in node.name for node in nodes)
    wanted = {"ssd-vgg-300": 13 + 2 + 8 + 12}.get(name) or int(name.rpartition("-")[2])
    assert weighted - shortcuts == wanted


@pytest.mark.parametrize("name", FEATURES)
def test_names_and_shapes_of_classifiers(name: str) -> None:
    skeleton = zoo.network(name).skeleton()
    assert skeleton.outputs == OUTPUTS[name]
    assert skeleton.features is not None
    tensor, shape = skeleton.features
    assert shape == FEATURES[name]
    assert inferred_shapes(name)[tensor] == (2, *shape)


def test_names_and_shapes_of_ssd() -> None:
    skeleton = zoo.network("ssd-vgg-300").skeleton()
    box = "ssd_300_vgg/block{}_box/Reshape{}:0"
    logits = {box.format(b, "_1"): (n, n, a, 21) for b, (n, a) in SSD_MAPS.items()}
    boxes = {box.format(b, ""): (n, n, a, 4) for b, (n, a) in SSD_MAPS.items()}
    assert list(skeleton.outputs.items()) == [*logits.items(), *boxes.items()]
    assert sum(n * n * a for n, a in SSD_MAPS.values()) == 8432
    paper = zoo.network("ssd-vgg-300").skeleton(variant="paper").outputs
    anchors = (n * m * a for name, (n, m, a, _) in paper.items() if name.endswith("Reshape:0"))
    assert sum(anchors) == 8732  # Liu et al., section 3.1


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_shapes_are_what_onnx_infers(name: str) -> None:
    shapes = inferred_shapes(name)
    for output, shape in zoo.network(name).skeleton().outputs.items():
        assert shapes[output] == (2, *shape)


def inferred_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of all values at a batch of 2; the weights are inputs, so that there are none to make."""
    skeleton = zoo.network(name).skeleton()
    declare, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        skeleton.nodes,
        name,
        [
            declare(zoo.INPUT, floats, [2, skeleton.height, skeleton.width, 3]),
            *(declare(p.name, floats, p.shape) for p in skeleton.parameters),
        ],
        [declare(output, floats, None) for output in skeleton.outputs],
        [
            onnx.numpy_helper.from_array(np.array(shape), constant)
            for constant, shape in skeleton.shapes.items()
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    found = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*found.value_info, *found.output)
    }


def test_random_weights_keep_activations_sane_and_say_what_they_are() -> None:
    model = zoo.build("densenet-121", seed=7, classes=10)
    onnx.checker.check_model(model.proto, full_check=True)
    metadata = {entry.key: entry.value for entry in model.proto.metadata_props}
    assert metadata[zoo.WEIGHTS_KEY] == model.weights == "random weights, seed 7"
    assert "random weights, seed 7" in model.proto.doc_string
    assert model.skeleton.features is not None
    features, _ = model.skeleton.features
    assert metadata[zoo.FEATURES_KEY] == features

    layers = [node.output[0] for node in model.proto.graph.node if node.op_type == "Relu"]
    model.proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in (*layers, features)
    )
    session = InferenceSession(model.onnx(), providers=["CPUExecutionProvider"])
    (images,) = model.samples(2).values()
    (probabilities, *activations) = session.run(None, {zoo.INPUT: images})
    assert probabilities.shape == (2, 10)
    for name, values in zip(layers, activations, strict=False):
        assert 0.2 < values.std() < 3, name
        assert 0.5 < (values > 0).mean() < 0.95, name
    # The last layer still tells one picture from another.
    assert np.abs(activations[-1][0] - activations[-1][1]).max() > 0.1
    assert 0.11 < probabilities.max() < 0.999


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    model = zoo.build("densenet-121", seed=3, classes=2)
    assert zoo.build("densenet-121", seed=3, classes=2).onnx() == model.onnx()
    assert zoo.build("densenet-121", seed=4, classes=2).onnx() != model.onnx()


def test_networks_are_found_by_any_usual_spelling() -> None:
    assert zoo.network("ResNet50").name == "resnet-50"
    assert zoo.network("ssd_vgg_300").name == "ssd-vgg-300"
    with pytest.raises(NotFoundError, match=r"cannot build 'vgg-19': .*did you mean vgg-16\?"):
        zoo.network("vgg-19")


def test_variants_and_classes_that_cannot_be() -> None:
    resnet = zoo.network("resnet-50")
    with pytest.raises(InputError, match=r"cannot build resnet-50 'v2': its variants are slim,"):
        resnet.skeleton(variant="v2")
    with pytest.raises(InputError, match=r"cannot build resnet-50 for 1 classes: wanted 2 to"):
        resnet.skeleton(classes=1)
