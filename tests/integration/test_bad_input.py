"""Whatever comes in, the answer says what is wrong, and the daemon goes on serving."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from integration.appliance import DATA, Appliance
from patience import PATIENCE
from PIL import Image

from edged import wire

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


def strings(*values: bytes) -> wire.TensorProto:
    return wire.TensorProto(
        dtype=wire.DataType.DT_STRING,
        tensor_shape=wire.TensorShapeProto(dim=[{"size": len(values)}]),
        string_val=values,
    )


def giant_png() -> bytes:
    output = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(output, "PNG")
    return output.getvalue()


def refused(appliance: Appliance, inputs: dict[str, wire.TensorProto]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        appliance.predict(inputs)
    return caught.value


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, mobilenet: Path):
    appliance = Appliance(tmp_path_factory.mktemp("a"))
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        assert appliance.put(mobilenet).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


def case(name: str, inputs: dict[str, wire.TensorProto], *words: str) -> object:
    return pytest.param(inputs, words, id=name)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        case("no JPEG", {"images": strings(b"\xff\xd8\xffnone at all")}, "image"),
        case("text", {"images": strings(b"hello")}, "image", "JPEG"),
        case("giant PNG", {"images": strings(giant_png())}, "20000"),
        case(
            "shape",
            {"input": wire.from_array(np.zeros((1, 10, 10, 3), np.uint8))},
            "input",
            "10",
            "224",
        ),
        case(
            "dtype",
            {"input": wire.from_array(np.zeros((1, 224, 224, 3), np.float64))},
            "input",
            "uint8",
        ),
        case("name", {"imagse": strings(PHOTO)}, "imagse", "input"),
        case("nothing", {}, "input"),
        case(
            "short content",
            {
                "input": wire.TensorProto(
                    dtype=wire.DataType.DT_UINT8,
                    tensor_shape=wire.TensorShapeProto(dim=[{"size": n} for n in (1, 224, 224, 3)]),
                    tensor_content=b"123",
                )
            },
            "3",
            "150528",
        ),
        case(
            "endless shape",
            {
                "input": wire.TensorProto(
                    dtype=wire.DataType.DT_UINT8,
                    tensor_shape=wire.TensorShapeProto(
                        dim=[{"size": n} for n in (1 << 40, 224, 224, 3)]
                    ),
                )
            },
            "cannot",
        ),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_works(
    serving: Appliance, inputs: dict[str, wire.TensorProto], words: tuple[str, ...]
) -> None:
    error = refused(serving, inputs)
    assert error.code() in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ), error.details()
    assert error.details().startswith("cannot")
    for word in words:
        assert word in error.details(), error.details()
    assert serving.score_images(PHOTO).shape == (1, 1001)


def test_a_request_of_100_megabytes_is_refused_with_the_limit(serving: Appliance) -> None:
    tensor = wire.TensorProto(
        dtype=wire.DataType.DT_UINT8,
        tensor_shape=wire.TensorShapeProto(dim=[{"size": 100 << 20}]),
        tensor_content=bytes(100 << 20),
    )
    error = refused(serving, {"input": tensor})
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(64 << 20) in error.details()
    assert serving.score_images(PHOTO).shape == (1, 1001)


def test_bytes_that_are_no_request_are_refused(serving: Appliance) -> None:
    call = serving.channel.unary_unary(f"/{wire.PREDICT}")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff" * 1000, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert serving.score_images(PHOTO).shape == (1, 1001)


def truncated(bundle: Path, output: Path) -> None:
    output.write_bytes(bundle.read_bytes()[: bundle.stat().st_size // 2])


def changed_blob(bundle: Path, output: Path) -> None:
    """One byte of the largest blob is another, its name and size are as before."""
    with tarfile.open(bundle) as source, tarfile.open(output, "w") as target:
        members = source.getmembers()
        largest = max(members, key=lambda member: member.size)
        for member in members:
            file = source.extractfile(member)
            data = bytearray(file.read()) if file else bytearray()
            if member is largest:
                data[len(data) // 2] ^= 1
                assert hashlib.sha256(data).hexdigest() not in member.name
            target.addfile(member, io.BytesIO(data))


def junk(bundle: Path, output: Path) -> None:
    output.write_bytes(b"this is no bundle" * 1000)


@pytest.mark.parametrize("spoil", [truncated, changed_blob, junk])
def test_a_bad_bundle_is_set_aside_and_what_served_serves_on(
    serving: Appliance, mobilenet: Path, tmp_path: Path, spoil: object
) -> None:
    name = f"{spoil.__name__}.edgemodel"
    file = tmp_path / name
    spoil(mobilenet, file)
    stop = threading.Event()
    failures: list[Exception] = []

    def load() -> None:
        while not stop.is_set():
            try:
                serving.score_images(PHOTO)
            except grpc.RpcError as error:
                failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        status = serving.put(file)
    finally:
        stop.set()
        thread.join()
    assert status.startswith("rejected: cannot")
    assert (serving.drop / "rejected" / name).read_bytes() == file.read_bytes()
    assert not (serving.drop / name).exists()
    assert failures == []
