"""Models with open sizes: what fixes them, and what is said where nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edged.bundle import VerifiedBundle, pack, verify_bundle
from edged.compiler import compile_model
from edged.errors import EdgedError, InputError, ModelError


def network(
    path: Path, *shapes: Sequence[int | str | None], names: Sequence[str] = ("images", "others")
) -> Path:
    """Images [N, 3, H, W], one or two of them added up, to 4 maps of half the size: ``maps``."""
    weights = np.random.default_rng(3).normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32)
    names = names[: len(shapes)]
    nodes = [helper.make_node("Conv", [names[0], "w"], ["c"], strides=[2, 2], pads=[1] * 4)]
    last = "c"
    if len(shapes) > 1:
        nodes.append(helper.make_node("Conv", [names[1], "w"], ["d"], strides=[2, 2], pads=[1] * 4))
        nodes.append(helper.make_node("Add", ["c", "d"], ["s"]))
        last = "s"
    nodes.append(helper.make_node("Relu", [last], ["maps"]))
    batch = shapes[0][0]
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(names, shapes, strict=True)
        ],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [batch, 4, None, None])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def packed(model: Path, **options: Any) -> VerifiedBundle:
    """A bundle that the compiler takes as well, which knows nothing of the options."""
    output = model.with_suffix(".edgemodel")
    pack(model, name="m", version="1.0.0", output=output, **options)
    found = verify_bundle(output, model.parent / "unpacked")
    compile_model((found.folder / "model.onnx").read_bytes())
    return found


FREE = ("batch", 3, "height", "width")


@pytest.mark.parametrize("named", [{"images": (1, 3, 24, 32)}, {"": (1, 3, 24, 32)}])
def test_a_shape_fixes_it(tmp_path: Path, named: dict[str, tuple[int, ...]]) -> None:
    found = packed(network(tmp_path / "m.onnx", FREE), shapes=named).manifest
    assert found.inputs[0].shape == (None, 3, 24, 32)
    assert found.outputs[0].shape == (None, 4, 12, 16)


def test_the_preprocessing_fixes_it(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "photo.png")
    found = packed(
        network(tmp_path / "m.onnx", FREE),
        preprocess="stretch=32x24,scale=1/255",
        calibration=tmp_path / "photo.png",
    ).manifest
    assert found.inputs[0].shape == (None, 3, 24, 32)


def test_calibration_samples_fix_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=np.ones((2, 3, 24, 32), np.float32))
    found = packed(network(tmp_path / "m.onnx", FREE), calibration=tmp_path / "s.npz").manifest
    assert found.inputs[0].shape == (None, 3, 24, 32)


def test_a_name_is_fixed_wherever_it_stands(tmp_path: Path) -> None:
    """The second input, and the outputs: exporters give one name to what is one size."""
    found = packed(
        network(tmp_path / "m.onnx", FREE, FREE), shapes={"images": (1, 3, 24, 32)}
    ).manifest
    assert [tensor.shape for tensor in found.inputs] == [(None, 3, 24, 32)] * 2


def test_sizes_without_names_are_their_own(tmp_path: Path) -> None:
    """Paddle writes a question mark for each."""
    model = network(tmp_path / "m.onnx", ("?", 3, "?", "?"))
    assert packed(model, shapes={"": (1, 3, 24, 32)}).manifest.inputs[0].shape[2:] == (24, 32)


def test_a_fixed_batch_is_opened_on_request(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", (8, 3, 24, 32))
    found = packed(model, shapes={"images": (1, 3, 24, 32)}).manifest
    assert found.inputs[0].shape == (None, 3, 24, 32)
    assert found.outputs[0].shape == (None, 4, 12, 16)


@pytest.mark.parametrize(
    ("shapes", "option"),
    [
        ([FREE], "--shape images=1,3,HEIGHT,WIDTH`"),
        ([(None, 3, 24, None)], "--shape images=1,3,24,SIZE3`"),
        ([(8, 3, 24, 32)], "--shape images=1,3,24,32`"),
        ([FREE, ("N", 3, "h2", 9)], "--shape images=1,3,HEIGHT,WIDTH --shape others=1,3,H2,9`"),
    ],
)
def test_a_bare_one_is_refused_with_the_command(
    tmp_path: Path, shapes: list[Sequence[int | str | None]], option: str
) -> None:
    with pytest.raises(ModelError, match=r"^cannot pack m\.onnx: input 'images' has") as caught:
        packed(network(tmp_path / "m.onnx", *shapes))
    assert f"`edgectl pack m.onnx --name NAME --version 1.0.0 {option}" in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        ([FREE], {"shapes": {"x": (1, 3, 8, 8)}}, "no input 'x'; the inputs are 'images'"),
        ([FREE, FREE], {"shapes": {"": (1, 3, 8, 8)}}, "no input ''"),
        ([FREE], {"shapes": {"": (1, 4, 8, 8)}}, "4 contradicts 3"),
        ([FREE], {"shapes": {"": (3, 8, 8)}}, "as many sizes, and a batch of 1 first"),
        ([FREE], {"shapes": {"": (2, 3, 8, 8)}}, "a batch of 1 first"),
        (
            [FREE, FREE],
            {"shapes": {"images": (1, 3, 8, 8), "others": (1, 3, 8, 9)}},
            "9 contradicts 8",
        ),
        ([FREE], {"shapes": {"": (1, 3, 8, 8)}, "preprocess": "stretch=9x9"}, "wants 8x8"),
    ],
)
def test_what_contradicts_is_refused(
    tmp_path: Path,
    shapes: list[Sequence[int | str | None]],
    options: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(EdgedError, match=words):
        packed(network(tmp_path / "m.onnx", *shapes), **options)


def test_samples_that_contradict_the_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=np.ones((2, 3, 24, 32), np.float32))
    with pytest.raises(InputError, match=r"images' is float32 \[2, 3, 24, 32\]"):
        packed(
            network(tmp_path / "m.onnx", FREE),
            shapes={"images": (1, 3, 8, 8)},
            calibration=tmp_path / "s.npz",
        )


def test_a_model_of_fixed_sizes_is_carried_as_it_is(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", ("N", 3, 24, 32))
    found = packed(model, shapes={"images": (1, 3, 24, 32)})
    assert (found.folder / "model.onnx").read_bytes() == model.read_bytes()
