"""What code for the original client relies on, and the mending of its bugs.

Signatures and defaults: ``azureml.accel.PredictionClient`` of azureml-accel-models 1.0.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from client.server import Server, failing
from patience import PATIENCE

from edged import wire
from edged.client import AsyncPredictionClient, PredictionClient
from edged.errors import (
    DeadlineError,
    EdgedError,
    InputError,
    LimitError,
    NotFoundError,
    RequestError,
    UnavailableError,
)

EMPTY = inspect.Parameter.empty


def echo(request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
    """Every input comes back under its own name, and only what was asked for."""
    names = list(request.output_filter) or list(request.inputs)
    return wire.PredictResponse(
        outputs={name: request.inputs[name] for name in names if name in request.inputs}
    )


def twice(request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
    """Two outputs, of a batch as large as that of the first input."""
    (tensor,) = request.inputs.values()
    count = tensor.tensor_shape.dim[0].size
    row = np.tile(np.arange(3, dtype=np.float32), (count, 1))
    return wire.PredictResponse(
        outputs={"b:0": wire.from_array(row + 10), "a:0": wire.from_array(row)}
    )


@pytest.mark.parametrize("client", [PredictionClient, AsyncPredictionClient])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (
            "__init__",
            {
                "address": EMPTY,
                "port": None,
                "use_ssl": False,
                "access_token": "",
                "service_name": "",
                "channel_shutdown_timeout": timedelta(minutes=2),
            },
        ),
        ("score_file", {"path": EMPTY, "input_name": "images", "outputs": None, "timeout": 10.0}),
        ("score_numpy_arrays", {"input_map": EMPTY, "outputs": None}),
        ("score_tensors", {"input_map": EMPTY, "outputs": None, "timeout": 10.0}),
    ],
)
def test_arguments_and_defaults_are_the_originals(
    client: type[Any], method: str, arguments: dict[str, Any]
) -> None:
    found = list(inspect.signature(getattr(client, method)).parameters.values())[1:]
    assert {p.name: p.default for p in found[: len(arguments)]} == arguments
    # What is new takes nothing from the positions of old.
    assert all(p.default is not EMPTY for p in found[len(arguments) :])


def test_a_file_goes_as_a_string_and_comes_back_without_its_batch(
    server: Server, client: PredictionClient, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\0")

    def answer(request: wire.PredictRequest, context: Any) -> wire.PredictResponse:
        tensor = request.inputs["Placeholder:0"]
        assert tensor.dtype == wire.DataType.DT_STRING
        assert [dim.size for dim in tensor.tensor_shape.dim] == [1]
        assert list(tensor.string_val) == [b"\xff\xd8\0"]
        return twice(request, context)

    server.answer = answer
    # The original's loop over a list of outputs forgot to keep what it took the batch off.
    a, b = client.score_file(str(photo), "Placeholder:0", ["a:0", "b:0"])
    np.testing.assert_array_equal(a, [0, 1, 2])
    np.testing.assert_array_equal(b, [10, 11, 12])
    b = client.score_file(photo, input_name="Placeholder:0", outputs="b:0")
    np.testing.assert_array_equal(b, [10, 11, 12])
    both = client.score_file(photo, "Placeholder:0")
    assert [value.shape for value in both] == [(3,), (3,)]
    with pytest.raises(NotFoundError, match=r"cannot read .*none\.jpg: there is no such file"):
        client.score_file(tmp_path / "none.jpg")


def test_an_answer_without_a_batch_of_one_is_refused(
    server: Server, client: PredictionClient, tmp_path: Path
) -> None:
    (tmp_path / "photo").write_bytes(b"x")
    server.answer = lambda request, context: wire.PredictResponse(
        outputs={"y": wire.from_array(np.array(1, np.float32))}
    )
    with pytest.raises(RequestError, match=r"one sample from output 'y' of shape \[\]"):
        client.score_file(tmp_path / "photo")


def test_one_output_is_an_array_and_several_a_list_in_their_order(
    server: Server, client: PredictionClient
) -> None:
    server.answer = echo
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 1), np.int64)
    only = client.score_numpy_arrays({"x": x})
    assert isinstance(only, np.ndarray)
    np.testing.assert_array_equal(only, x)
    two = client.score_numpy_arrays({"x": x, "y": y}, ["y", "x"])
    assert [value.dtype for value in two] == [np.int64, np.float32]
    assert client.score_numpy_arrays({"x": x, "y": y}, outputs="y").dtype == np.int64


def test_an_array_of_strings_is_a_string_tensor(server: Server, client: PredictionClient) -> None:
    server.answer = echo
    sent = np.array([[b"a\0", b""], [b"bc", b"d"]], object)
    found = client.score_numpy_arrays({"s": sent}, "s")
    np.testing.assert_array_equal(found, sent)
    found = client.score_numpy_arrays({"s": np.array(["é"])}, "s")
    assert found.tolist() == ["é".encode()]
    with pytest.raises(RequestError, match="input 's': it has a float among its strings"):
        client.score_numpy_arrays({"s": np.array([1.5, None])})
    with pytest.raises(RequestError, match="input 'x': cannot put datetime64"):
        client.score_numpy_arrays({"x": np.array(["2020"], "M8[Y]")})


class TfDType:
    """As tensorflow.DType says it."""

    as_datatype_enum = 1


@pytest.mark.parametrize("kind", [1, "DT_FLOAT", "float32", np.float32, np.dtype("<f4"), TfDType()])
def test_tensors_other_than_strings_can_be_sent(
    server: Server, client: PredictionClient, kind: Any
) -> None:
    server.answer = echo
    # The original appended to tensor_content, which is no list: an AttributeError.
    x = np.arange(6, dtype="<f4").reshape(1, 2, 3)
    found = client.score_tensors({"x": (x.tobytes(), [1, 2, 3], kind)}, "x")
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("kind", [7, "DT_STRING", bytes])
def test_string_tensors(server: Server, client: PredictionClient, kind: Any) -> None:
    server.answer = echo
    assert client.score_tensors({"s": (b"one", [1], kind)}, "s").tolist() == [b"one"]
    found = client.score_tensors({"s": ([b"a", b"b"], [2], kind)}, "s")
    assert found.tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ((b"123", [1], np.float32), "tensor 'x': tensor_content has 3 bytes, .* want 4"),
        ((b"1234", [1], "flaot32"), "input 'x': 'flaot32' is no type of a tensor; one of float32"),
        ((b"1234", [1], 99), "input 'x': 99 is no type"),
        ((b"1234", [1], None), "input 'x': None is no type"),
        (([b"1234"], [1], np.float32), "input 'x': its data are a list; wanted bytes"),
        (([b"a", b"b", b"c"], [2], 7), "tensor 'x': string_val has 3 strings"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_before_they_travel(
    server: Server, client: PredictionClient, raw: Any, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        client.score_tensors({"x": raw})
    assert server.calls == 0


def test_an_output_that_is_not_there_is_answered_with_those_that_are(
    server: Server, client: PredictionClient
) -> None:
    server.answer = twice
    x = {"x": np.zeros((1, 1), np.float32)}
    with pytest.raises(RequestError, match=r"there is no output 'c:0'; .* with 'a:0', 'b:0'"):
        client.score_numpy_arrays(x, ["a:0", "c:0"])


def test_the_metadata_are_the_originals(server: Server) -> None:
    server.answer = echo
    with PredictionClient("127.0.0.1", server.port, False, "key", "service") as client:
        client.score_numpy_arrays({"x": np.zeros(1)})
    assert server.metadata["authorization"] == "Bearer key"
    assert server.metadata["x-ms-aml-grpc-service-route"] == "/api/v1/service/service"
    with PredictionClient(server.address) as client:
        client.score_numpy_arrays({"x": np.zeros(1)})
    assert not {"authorization", "x-ms-aml-grpc-service-route"} & set(server.metadata)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"address": ""}, "the address is empty"),
        ({"address": "host", "port": 70000}, "port 70000 of host: wanted 1 to 65535"),
        ({"address": "unix:/x", "port": 1}, "'unix:/x' at port 1: it has its own"),
        ({"address": "host", "access_token": "a\nb"}, "^cannot send access_token: it has .*ASCII$"),
        ({"address": "host", "service_name": "ä"}, "cannot send service_name"),
        ({"address": "host", "attempts": 0}, "at least one attempt"),
        ({"address": "host", "ca_file": __file__}, "test_original.py: it has no certificate"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PredictionClient(**arguments)


@pytest.mark.parametrize(
    ("address", "port", "use_ssl", "target"),
    [
        ("edged.invalid", None, False, "edged.invalid:80"),
        ("edged.invalid", None, True, "edged.invalid:443"),
        ("edged.invalid", 50051, True, "edged.invalid:50051"),
        ("edged.invalid:50051", None, False, "edged.invalid:50051"),
        ("::1", 50051, False, "[::1]:50051"),
        ("::1", None, False, "[::1]:80"),
        ("[::1]:7", None, False, "[::1]:7"),
    ],
)
def test_where_it_connects_to(address: str, port: int | None, use_ssl: bool, target: str) -> None:
    with (
        PredictionClient(address, port, use_ssl, attempts=1) as client,
        pytest.raises(
            (UnavailableError, DeadlineError), match=f"answer from {target}".replace("[", r"\[")
        ),
    ):
        client.score_numpy_arrays({"x": np.zeros(1)}, timeout=0.05)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def encrypted(authority: trustme.CA) -> Iterator[Server]:
    issued = authority.issue_cert("127.0.0.1")
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes()
    server = Server(grpc.ssl_server_credentials([(key, chain)]))
    server.answer = echo
    yield server
    server.stop()


def test_tls_with_a_ca_file(encrypted: Server, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with PredictionClient("127.0.0.1", encrypted.port, ca_file=ca, access_token="key") as client:
        assert client.score_numpy_arrays({"x": np.ones(1)}, "x") == 1
    assert encrypted.metadata["authorization"] == "Bearer key"


def test_a_server_with_another_authority_is_not_trusted(encrypted: Server, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    with (
        PredictionClient("127.0.0.1", encrypted.port, ca_file=ca, attempts=1) as client,
        pytest.raises(UnavailableError, match="cannot get an answer"),
    ):
        client.score_numpy_arrays({"x": np.ones(1)}, timeout=PATIENCE)
    assert encrypted.calls == 0
    with pytest.raises(NotFoundError, match=r"cannot read CA file .*none"):
        PredictionClient("host", ca_file=tmp_path / "none")


def test_exhausted_is_tried_again_when_the_server_says_when(
    server: Server, client: PredictionClient
) -> None:
    busy = grpc.StatusCode.RESOURCE_EXHAUSTED

    def later(request: wire.PredictRequest, context: Any) -> wire.PredictResponse:
        if server.calls == 1:
            return failing(busy, "cannot answer", ("grpc-retry-pushback-ms", "1"))(request, context)
        return echo(request, context)

    server.answer = later
    assert client.score_numpy_arrays({"x": np.ones(1)}, "x") == 1
    assert server.calls == 2
    server.answer = failing(busy, "cannot answer: too large")
    with pytest.raises(LimitError):
        client.score_numpy_arrays({"x": np.ones(1)})
    assert server.calls == 3


@pytest.mark.parametrize("pushback", ["-1", "never"])
def test_a_server_can_say_that_waiting_does_not_help(
    server: Server, client: PredictionClient, pushback: str
) -> None:
    trailer = ("grpc-retry-pushback-ms", pushback)
    server.answer = failing(grpc.StatusCode.UNAVAILABLE, "cannot answer", trailer)
    with pytest.raises(UnavailableError):
        client.score_numpy_arrays({"x": np.ones(1)})
    assert server.calls == 1


def test_no_wait_goes_beyond_the_timeout(server: Server, client: PredictionClient) -> None:
    trailer = ("grpc-retry-pushback-ms", "3600000")
    server.answer = failing(grpc.StatusCode.UNAVAILABLE, "cannot answer yet", trailer)
    # That this test ends at all is what it shows: the wait would be an hour.
    with pytest.raises(UnavailableError, match="cannot answer yet"):
        client.score_numpy_arrays({"x": np.ones(1)}, timeout=PATIENCE)
    assert server.calls == 1


def test_attempts_have_a_bound(server: Server) -> None:
    trailer = ("grpc-retry-pushback-ms", "1")
    server.answer = failing(grpc.StatusCode.UNAVAILABLE, "cannot answer yet", trailer)
    with PredictionClient(server.address) as client, pytest.raises(UnavailableError):
        client.score_numpy_arrays({"x": np.ones(1)})
    assert server.calls == 5


def test_a_timeout_that_is_none_is_refused(client: PredictionClient) -> None:
    with pytest.raises(InputError, match="timeout of 0 s: wanted more than 0"):
        client.score_numpy_arrays({"x": np.ones(1)}, timeout=0)


async def test_the_twin_answers_alike(server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes(b"x")
    server.answer = twice
    async with AsyncPredictionClient("127.0.0.1", server.port, access_token="key") as client:
        a, b = await client.score_file(photo, "images", ["a:0", "b:0"])
        assert (a.shape, b.tolist()) == ((3,), [10, 11, 12])
        (score,) = await client.score_images([b"x"], output_name="b:0")
        assert (score.output, score.top(1)) == ("b:0", [2])
        assert set(await client.score_arrays({"x": np.zeros((1, 2))})) == {"a:0", "b:0"}
        assert (await client.score_tensors({"x": (b"x", [1], 7)}, "a:0")).shape == (1, 3)
        assert (await client.score_numpy_arrays({"x": np.zeros((2, 1))}, "a:0")).shape == (2, 3)
    assert server.metadata["authorization"] == "Bearer key"


async def test_the_twin_fails_and_tries_again_alike(server: Server) -> None:
    async with AsyncPredictionClient(server.address, attempts=3) as client:
        trailer = ("grpc-retry-pushback-ms", "1")
        server.answer = failing(grpc.StatusCode.UNAVAILABLE, "cannot answer yet", trailer)
        with pytest.raises(UnavailableError, match=r"^cannot answer yet$"):
            await client.score_arrays({"x": np.zeros(1)})
        assert server.calls == 3
        server.answer = failing(grpc.StatusCode.INTERNAL, "cannot answer: broken")
        with pytest.raises(EdgedError, match="broken"):
            await client.score_arrays({"x": np.zeros(1)})
        assert server.calls == 4
    async with AsyncPredictionClient("127.0.0.1", 9, attempts=1) as client:
        with pytest.raises(UnavailableError, match="is edged there"):
            await client.score_arrays({"x": np.zeros(1)})


async def test_the_twin_over_tls(encrypted: Server, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with AsyncPredictionClient("127.0.0.1", encrypted.port, ca_file=ca) as client:
        assert await client.score_numpy_arrays({"x": np.ones(1)}, "x") == 1


def test_a_client_with_a_certificate_of_its_own(authority: trustme.CA, tmp_path: Path) -> None:
    leaf = authority.issue_cert("127.0.0.1")
    key, chain = leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
    strict = Server(grpc.ssl_server_credentials([(key, chain)], authority.cert_pem.bytes(), True))
    ca, own = tmp_path / "ca.pem", authority.issue_cert("camera-1")
    authority.cert_pem.write_to_path(str(ca))
    own.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "own.crt"))
    files = {"certificate_file": tmp_path / "own.crt", "key_file": tmp_path / "own.key"}
    strict.answer = echo
    try:
        with PredictionClient("127.0.0.1", strict.port, ca_file=ca, **files) as client:
            assert client.score_numpy_arrays({"x": np.ones(1)}, "x") == 1
        with (
            PredictionClient("127.0.0.1", strict.port, ca_file=ca, attempts=1) as client,
            pytest.raises(UnavailableError),
        ):
            client.score_numpy_arrays({"x": np.ones(1)}, timeout=PATIENCE)
    finally:
        strict.stop()
    with pytest.raises(InputError, match="certificate_file and key_file belong together"):
        PredictionClient("host", certificate_file=tmp_path / "own.crt")
    with pytest.raises(InputError, match=r"own\.crt: it has no private key in PEM form"):
        PredictionClient(
            "host", certificate_file=tmp_path / "own.crt", key_file=tmp_path / "own.crt"
        )
