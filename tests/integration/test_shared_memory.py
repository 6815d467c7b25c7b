"""System shared memory with Triton's own client, and clients that mean harm with it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.appliance import DATA, Appliance
from integration.sample import CLASSES, SCORES, SIDE
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()
FOLDER = Path("/dev/shm")
INPUT_BYTES, OUTPUT_BYTES = 2 * SIDE * SIDE * 3 * 4, 2 * CLASSES * 4


@pytest.fixture(scope="module")
def client(serving: Appliance) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"unix:{serving.socket}") as client:
        yield client


@pytest.fixture
def key() -> Iterator[str]:
    """A name under which there is nothing yet."""
    key = f"edged-test-{secrets.token_hex(8)}"
    yield key
    (FOLDER / key).unlink(missing_ok=True)


@contextmanager
def region(client: triton.InferenceServerClient, key: str, size: int) -> Iterator[Any]:
    """A region of Triton's making, registered under the name *memory*."""
    handle = shm.create_shared_memory_region("memory", f"/{key}", size)
    try:
        client.register_system_shared_memory("memory", f"/{key}", size)
        yield handle
    finally:
        client.unregister_system_shared_memory("memory")
        shm.destroy_shared_memory_region(handle)


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)


def asked(size: int = INPUT_BYTES, offset: int = 0, name: str = "memory") -> triton.InferInput:
    given = triton.InferInput("images", [2, SIDE, SIDE, 3], "FP32")
    given.set_shared_memory(name, size, offset)
    return given


def test_tensors_come_and_go_by_shared_memory(
    client: triton.InferenceServerClient, key: str
) -> None:
    sent = triton.InferInput("images", [2, SIDE, SIDE, 3], "FP32")
    sent.set_data_from_numpy(pixels())
    wanted = client.infer("sample", [sent]).as_numpy(SCORES)
    with region(client, key, INPUT_BYTES + OUTPUT_BYTES) as handle:
        shm.set_shared_memory_region(handle, [pixels()])
        output = triton.InferRequestedOutput(SCORES)
        output.set_shared_memory("memory", OUTPUT_BYTES, INPUT_BYTES)
        answer = client.infer("sample", [asked()], outputs=[output])
        told = answer.get_output(SCORES)
        assert list(told.shape) == [2, CLASSES] and told.datatype == "FP32"
        found = shm.get_contents_as_numpy(handle, np.float32, [2, CLASSES], INPUT_BYTES)
        np.testing.assert_array_equal(found, wanted)
        # The output of one without the other's.
        np.testing.assert_array_equal(client.infer("sample", [asked()]).as_numpy(SCORES), wanted)


def test_an_image_comes_by_shared_memory(client: triton.InferenceServerClient, key: str) -> None:
    data = serialize_byte_tensor(np.array([PHOTO], np.object_)).item()
    sent = triton.InferInput("images", [1], "BYTES")
    sent.set_data_from_numpy(np.array([PHOTO], np.object_))
    wanted = client.infer("sample", [sent]).as_numpy(SCORES)
    with region(client, key, len(data)) as handle:
        shm.set_shared_memory_region(handle, [np.frombuffer(data, np.uint8)])
        given = triton.InferInput("images", [1], "BYTES")
        given.set_shared_memory("memory", len(data))
        np.testing.assert_array_equal(client.infer("sample", [given]).as_numpy(SCORES), wanted)


def test_what_is_registered_is_told(client: triton.InferenceServerClient, key: str) -> None:
    with region(client, key, 4096):
        status = client.get_system_shared_memory_status("memory").regions
        assert (status["memory"].key, status["memory"].byte_size) == (f"/{key}", 4096)
        with pytest.raises(InferenceServerException, match="registered already"):
            client.register_system_shared_memory("memory", f"/{key}", 4096)
    assert not client.get_system_shared_memory_status().regions
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*not registered"):
        client.infer("sample", [asked()])


def test_registrations_survive_a_swap(
    serving: Appliance, client: triton.InferenceServerClient, key: str, second: Path
) -> None:
    with region(client, key, INPUT_BYTES) as handle:
        shm.set_shared_memory_region(handle, [pixels()])
        before = client.infer("sample", [asked()]).as_numpy(SCORES)
        serving.put(second, "for-memory.edgemodel")
        after = client.infer("second", [asked()]).as_numpy(SCORES)
        np.testing.assert_array_equal(before, after)
        client.load_model("sample")
        after = client.infer("sample", [asked()]).as_numpy(SCORES)
        np.testing.assert_array_equal(before, after)


def test_a_file_that_is_cut_short_fails_the_call_and_nothing_else(
    client: triton.InferenceServerClient, key: str
) -> None:
    with region(client, key, INPUT_BYTES) as handle:
        shm.set_shared_memory_region(handle, [pixels()])
        assert client.infer("sample", [asked()]).as_numpy(SCORES) is not None
        os.truncate(FOLDER / key, 100)
        output = triton.InferRequestedOutput(SCORES)
        output.set_shared_memory("memory", OUTPUT_BYTES, 1000)
        for outputs in (None, [output]):
            with pytest.raises(InferenceServerException, match="its file was cut short"):
                client.infer("sample", [asked()], outputs=outputs)
        sent = triton.InferInput("images", [2, SIDE, SIDE, 3], "FP32")
        sent.set_data_from_numpy(pixels())
        with pytest.raises(InferenceServerException, match="its file was cut short"):
            client.infer("sample", [sent], outputs=[output])
        assert (FOLDER / key).stat().st_size == 100
        os.truncate(FOLDER / key, INPUT_BYTES)
        assert client.infer("sample", [asked()]).as_numpy(SCORES) is not None


@pytest.mark.parametrize(
    ("size", "offset", "said"),
    [
        (INPUT_BYTES - 4, 0, "has 6140 bytes, FP32"),
        (INPUT_BYTES, 8, "it has 6144 bytes, wanted are 6144 from 8 on"),
        (INPUT_BYTES, 1 << 60, "wanted are"),
    ],
)
def test_no_call_reaches_beyond_its_region(
    client: triton.InferenceServerClient, key: str, size: int, offset: int, said: str
) -> None:
    with region(client, key, INPUT_BYTES), pytest.raises(InferenceServerException, match=said):
        client.infer("sample", [asked(size, offset)])


@pytest.mark.parametrize(
    "bad", ["", "/", "..", "/..", "../etc/passwd", "a/b", "//etc/passwd", "a\0b", "x" * 300]
)
def test_no_key_leads_elsewhere(client: triton.InferenceServerClient, bad: str) -> None:
    with pytest.raises(InferenceServerException, match="is no key"):
        client.register_system_shared_memory("bad", bad, 1)


def test_what_is_no_file_is_refused(client: triton.InferenceServerClient, key: str) -> None:
    def refused(said: str, size: int = 1) -> None:
        with pytest.raises(InferenceServerException, match=said):
            client.register_system_shared_memory("bad", key, size)

    refused("there is no /dev/shm/")
    path = FOLDER / key
    path.symlink_to("/etc/hostname")
    refused("levels of symbolic links")
    path.unlink()
    os.mkfifo(path)
    refused("is no regular file")
    path.unlink()
    path.write_bytes(bytes(10))
    refused("has 10 bytes, wanted are 11 from 0 on", 11)
    refused("wanted are 0 from 0 on", 0)
    refused("ends after byte", 1 << 62)


def test_there_is_a_bound_on_their_number(client: triton.InferenceServerClient, key: str) -> None:
    (FOLDER / key).write_bytes(bytes(10))
    try:
        for number in range(64):
            client.register_system_shared_memory(f"one of many {number}", key, 1)
        with pytest.raises(InferenceServerException, match="there are 64 already"):
            client.register_system_shared_memory("one too many", key, 1)
    finally:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
    assert not client.get_system_shared_memory_status().regions
