"""What clients send, against a real worker with a real emulator."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper, numpy_helper
from patience import PATIENCE

from edged import wire
from edged.bundle import pack, verify_bundle
from edged.compiler import compile_model
from edged.container import Container, ProcessLauncher
from edged.device import vfio_user
from edged.errors import EdgedError, LimitError, NotFoundError, RequestError
from edged.preprocess import image_to_array
from edged.wire import rest

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCORES, FEATURES = "scores:0", "features:0"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def container(sample: Any, emulator: Any) -> AsyncIterator[Container]:
    container = await ProcessLauncher().start(sample.folder)
    await container.attach(vfio_user.connect(emulator.socket))
    yield container
    await container.stop()


def request(value: Any, name: str = "input", **tensor: Any) -> wire.PredictRequest:
    message = wire.PredictRequest()
    message.inputs[name].CopyFrom(wire.from_array(value, **tensor))
    return message


async def predict(container: Container, message: wire.PredictRequest) -> wire.PredictResponse:
    answer = await container.call(wire.PREDICT, message.SerializeToString(), PATIENCE)
    return wire.PredictResponse.FromString(answer)


async def outputs(container: Container, message: wire.PredictRequest) -> dict[str, Any]:
    response = await predict(container, message)
    return {key: wire.to_array(tensor) for key, tensor in response.outputs.items()}


def pixels(count: int = 1) -> Any:
    return np.random.default_rng(9).integers(0, 256, (count, 16, 16, 3), np.uint8)


async def test_the_vectors_of_the_bundle_pass(container: Container) -> None:
    await container.self_test()


@pytest.mark.parametrize("content", [True, False])
async def test_a_tensor_gives_what_the_reference_gives_to_the_bit(
    container: Container, sample: Any, content: bool
) -> None:
    found = await outputs(container, request(pixels(), content=content))
    expected = sample.reference(pixels())
    assert set(found) == {SCORES, FEATURES}
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
async def test_an_image_is_decoded_and_resized(
    container: Container, sample: Any, photo: Callable[..., bytes], kind: str
) -> None:
    data = photo(40, 30, kind)
    spec = sample_spec(sample)
    expected = sample.reference(image_to_array(data, spec))
    found = await outputs(container, request([data]))
    np.testing.assert_array_equal(found[SCORES], expected[SCORES])


async def test_a_batch_is_answered_sample_by_sample(
    container: Container, sample: Any, photo: Callable[..., bytes]
) -> None:
    batch = pixels(5)
    found = await outputs(container, request(batch))
    assert found[SCORES].shape == (5, 5) and found[FEATURES].shape == (5, 8)
    for index in range(5):
        expected = sample.reference(batch[index : index + 1])
        np.testing.assert_array_equal(found[SCORES][index : index + 1], expected[SCORES])
    images = [photo(seed=seed) for seed in range(3)]
    found = await outputs(container, request(images))
    expected = sample.reference(image_to_array(images[2], sample_spec(sample)))
    np.testing.assert_array_equal(found[SCORES][2:], expected[SCORES])


async def test_floats_are_answered_in_float_val_with_every_dimension(container: Container) -> None:
    response = await predict(container, request(pixels()))
    tensor = response.outputs[SCORES]
    assert len(tensor.float_val) == 5 and not tensor.tensor_content
    assert [dim.size for dim in tensor.tensor_shape.dim] == [1, 5]
    assert tensor.dtype == wire.DataType.DT_FLOAT


async def test_the_answer_says_which_model_gave_it(container: Container) -> None:
    spec = (await predict(container, request(pixels()))).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("sample", 7, "serving_default")


@pytest.mark.parametrize("name", ["input", "input:0", "images", "Placeholder:0"])
async def test_the_only_input_answers_to_its_names(
    container: Container, photo: Callable[..., bytes], name: str
) -> None:
    assert len(await outputs(container, request([photo()], name))) == 2


async def test_who_asks_by_alias_is_answered_by_alias(container: Container) -> None:
    assert set(await outputs(container, request(pixels(), "images"))) == {"output_alias", FEATURES}
    assert set(await outputs(container, request(pixels()))) == {SCORES, FEATURES}


@pytest.mark.parametrize("wanted", [[SCORES], ["output_alias"], ["scores"], [FEATURES, SCORES]])
async def test_a_filter_is_answered_in_its_own_words(
    container: Container, wanted: list[str]
) -> None:
    message = request(pixels())
    message.output_filter.extend(wanted)
    assert set(await outputs(container, message)) == set(wanted)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            request(pixels(), "imagse"),
            r"no input 'imagse'; it has 'input' \(alias 'images'\) uint8",
        ),
        (wire.PredictRequest(), r"lacks input 'input'.* uint8 \[N, 16, 16, 3\]"),
        (request(pixels().astype(np.float32)), r"is float32 \[1, 16, 16, 3\], wanted uint8 \[N"),
        (request(pixels()[0]), r"is uint8 \[16, 16, 3\], wanted uint8 \[N, 16, 16, 3\]"),
        (request(pixels()[:, :8]), r"is uint8 \[1, 8, 16, 3\], wanted .*or images as strings"),
        (request(pixels()[:0]), "has no samples"),
        (request([b"not an image"]), "cannot decode the image: .* wanted JPEG or PNG"),
        (request([b""]), "no bytes at all"),
    ],
)
async def test_what_does_not_fit_is_answered_with_what_would(
    container: Container, message: wire.PredictRequest, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        await predict(container, message)


async def test_a_wrong_output_is_answered_with_those_there_are(container: Container) -> None:
    message = request(pixels())
    message.output_filter.append("probs")
    with pytest.raises(RequestError, match=r"no output 'probs'; it has 'scores:0' \(alias 'out"):
        await predict(container, message)


async def test_an_input_given_twice_is_refused(container: Container) -> None:
    message = request(pixels(), "images")
    message.inputs["input"].CopyFrom(wire.from_array(pixels()))
    with pytest.raises(RequestError, match="'input' is given twice"):
        await predict(container, message)


async def test_a_damaged_jpeg_is_refused(container: Container, photo: Callable[..., bytes]) -> None:
    with pytest.raises(RequestError, match="JPEG of 300 bytes is damaged"):
        await predict(container, request([photo(64, 64, "JPEG")[:300]]))


async def test_a_giant_png_is_refused_before_it_is_decoded(container: Container) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(60_001 * 100)))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
    with pytest.raises(LimitError, match="20000 × 20000"):
        await predict(container, request([bomb]))


async def test_a_batch_has_a_bound(container: Container, photo: Callable[..., bytes]) -> None:
    with pytest.raises(LimitError, match="257 samples, at most 256"):
        await predict(container, request(pixels(257)))
    repeated = request([photo()])
    repeated.inputs["input"].tensor_shape.dim[0].size = 1 << 40
    with pytest.raises(LimitError, match="at most 256"):
        await predict(container, repeated)


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"GET / HTTP/1.1"])
async def test_garbage_is_refused(container: Container, data: bytes) -> None:
    with pytest.raises(RequestError, match=r"no tensorflow\.serving\.PredictRequest"):
        await container.call(wire.PREDICT, data, PATIENCE)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (wire.ModelSpec(name="resnet"), r"no model 'resnet' is loaded, but 'sample' 1\.2\.3"),
        (wire.ModelSpec(name="sample", version={"value": 8}), "version '8' of 'sample'"),
        (wire.ModelSpec(version_label="2.0.0"), r"version '2\.0\.0'"),
        (wire.ModelSpec(signature_name="regress"), "only 'serving_default'"),
    ],
)
async def test_another_model_is_not_found(
    container: Container, spec: wire.ModelSpec, said: str
) -> None:
    message = request(pixels())
    message.model_spec.CopyFrom(spec)
    with pytest.raises(NotFoundError, match=said):
        await predict(container, message)


async def test_the_loaded_model_is_found_by_all_its_names(container: Container) -> None:
    for spec in (
        wire.ModelSpec(name="sample", version={"value": 7}),
        wire.ModelSpec(version_label="1.2.3", signature_name="serving_default"),
    ):
        message = request(pixels())
        message.model_spec.CopyFrom(spec)
        assert (await predict(container, message)).model_spec.name == "sample"


async def test_metadata_lists_the_tensors(container: Container) -> None:
    message = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    answer = await container.call(wire.GET_MODEL_METADATA, message.SerializeToString(), PATIENCE)
    response = wire.GetModelMetadataResponse.FromString(answer)
    signatures = wire.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    info = signature.inputs["images"]
    assert (info.name, info.dtype) == ("input", wire.DataType.DT_UINT8)
    assert [dim.size for dim in info.tensor_shape.dim] == [-1, 16, 16, 3]
    assert {key: info.name for key, info in signature.outputs.items()} == {
        "output_alias": SCORES,
        FEATURES: FEATURES,
    }
    message.metadata_field[:] = ["graph"]
    with pytest.raises(RequestError, match="only 'signature_def'"):
        await container.call(wire.GET_MODEL_METADATA, message.SerializeToString(), PATIENCE)


async def test_an_unknown_method_is_answered_with_those_there_are(container: Container) -> None:
    with pytest.raises(NotFoundError, match="PredictionService/Predict"):
        await container.call("tensorflow.serving.PredictionService/MultiInference", b"", PATIENCE)


async def test_64_mib_are_taken_and_refused_for_their_shape_alone(container: Container) -> None:
    message = wire.PredictRequest()
    message.inputs["input"].dtype = wire.DataType.DT_UINT8
    message.inputs["input"].tensor_content = bytes(64 << 20)
    with pytest.raises(RequestError, match="wanted uint8"):
        await predict(container, message)
    assert len(await outputs(container, request(pixels()))) == 2


async def test_many_clients_at_once_get_their_own_answers(
    container: Container, sample: Any
) -> None:
    batch = pixels(24)
    found = await asyncio.gather(
        *(outputs(container, request(batch[index : index + 1])) for index in range(24))
    )
    for index in range(0, 24, 5):
        expected = sample.reference(batch[index : index + 1])
        np.testing.assert_array_equal(found[index][SCORES], expected[SCORES])


async def test_every_error_left_the_container_serving(container: Container) -> None:
    assert not container.lost
    with pytest.raises(EdgedError):
        await predict(container, request([b"junk"]))
    await container.self_test()


def sample_spec(sample: Any) -> Any:
    from edged.bundle import Manifest

    return Manifest.parse((sample.folder / "manifest.json").read_bytes()).preprocess


def make_ages() -> bytes:
    """float32 [N, 4] → ``age:0`` [N, 1], 2 x0 - x3."""
    weights = np.array([[2], [0], [0], [-1]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["age:0"])],
        "ages",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("age:0", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


async def test_a_number_for_each_example_is_a_regression(
    tmp_path: Path, emulate: Callable[..., Any]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "ages.onnx").write_bytes(make_ages())
    values = np.random.default_rng(2).uniform(-1, 1, (32, 4)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", input=values)
    pack(
        tmp_path / "ages.onnx",
        name="ages",
        version="1.0.0",
        calibration=tmp_path / "calibration.npz",
        output=tmp_path / "ages.edgemodel",
    )
    verify_bundle(tmp_path / "ages.edgemodel", folder)
    model = (folder / "model.onnx").read_bytes()
    compile_model(model, calibration={"input": values}).write(folder)
    container = await ProcessLauncher().start(folder)
    try:
        with emulate(tmp_path, folder) as emulator:
            await container.attach(vfio_user.connect(emulator.socket))
            message = request(values[:3])
            asked = wire.RegressionRequest()
            for row in values[:3]:
                feature = asked.input.example_list.examples.add().features.feature["input"]
                feature.float_list.value.extend(row)
            predicted = (await outputs(container, message))["age:0"]
            answer = await container.call(wire.REGRESS, asked.SerializeToString(), PATIENCE)
            response = wire.RegressionResponse.FromString(answer)
            assert response.model_spec.name == "ages"
            found = [each.value for each in response.result.regressions]
            assert found == predicted[:, 0].tolist()
            np.testing.assert_allclose(found, 2 * values[:3, 0] - values[:3, 3], atol=0.1)
            examples = [{"input": row.tolist()} for row in values[:3]]
            body = json.dumps({"examples": examples}).encode()
            said, _ = rest.unframe(await container.call(rest.REGRESS, body, PATIENCE))
            assert json.loads(bytes(said)) == {"result": pytest.approx(found)}
    finally:
        await container.stop()
