"""The client against a real gRPC server that answers as edged does."""

from __future__ import annotations

import contextlib

import grpc
import numpy as np
import pytest
from client.server import Distance, Server, failing

from edged import wire
from edged.client import PredictionClient, Score
from edged.errors import EdgedError, LimitError, NotFoundError, RequestError, UnavailableError


def lengths(request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
    """Of each image: its length, and one more."""
    assert not request.model_spec.name
    (name,) = request.inputs
    assert name == "images"
    values = np.array([[len(s), len(s) + 1] for s in request.inputs[name].string_val], np.float32)
    return wire.PredictResponse(outputs={"scores": wire.from_array(values)})


def test_images(server: Server, client: PredictionClient) -> None:
    server.answer = lengths
    one, two = client.score_images([b"abc", b"x"])
    assert one.output == "scores"
    np.testing.assert_array_equal(one.values, [3, 4])
    np.testing.assert_array_equal(two.values, [1, 2])
    assert server.calls == 1


def test_arrays(server: Server, client: PredictionClient) -> None:
    def double(request: wire.PredictRequest, _: object) -> wire.PredictResponse:
        x = np.asarray(wire.to_array(request.inputs["x"]))
        return wire.PredictResponse(outputs={"y": wire.from_array(x * 2)})

    server.answer = double
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    answer = client.score_arrays({"x": x})
    np.testing.assert_array_equal(answer["y"], x * 2)


def test_a_message_beyond_grpcs_own_bound(server: Server, client: PredictionClient) -> None:
    def count(request: wire.PredictRequest, _: object) -> wire.PredictResponse:
        return wire.PredictResponse(outputs={"y": wire.from_array(np.zeros(2_000_000, np.float32))})

    server.answer = count
    assert client.score_arrays({"x": np.zeros(1, np.float32)})["y"].shape == (2_000_000,)


def test_the_model_is_asked_by_name(server: Server) -> None:
    def name(request: wire.PredictRequest, _: object) -> wire.PredictResponse:
        assert request.model_spec.name == "tiny"
        return wire.PredictResponse(outputs={"y": wire.from_array(np.zeros(1, np.float32))})

    server.answer = name
    with PredictionClient(server.address, model="tiny") as client:
        client.score_arrays({"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, RequestError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, LimitError),
        (grpc.StatusCode.INTERNAL, EdgedError),
    ],
)
def test_errors_come_back_as_they_were_and_are_final(
    server: Server, client: PredictionClient, code: grpc.StatusCode, kind: type[EdgedError]
) -> None:
    server.answer = failing(code, "cannot answer: for a reason")
    with pytest.raises(EdgedError, match=r"^cannot answer: for a reason$") as caught:
        client.score_images([b"x"])
    assert type(caught.value) is kind
    assert server.calls == 1


def test_unavailable_is_tried_again(server: Server, client: PredictionClient) -> None:
    def third_time(
        request: wire.PredictRequest, context: grpc.ServicerContext
    ) -> wire.PredictResponse:
        if server.calls < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cannot answer yet")
        return lengths(request, context)

    server.answer = third_time
    (score,) = client.score_images([b"abc"])
    assert score.values[0] == 3
    assert server.calls == 3


def test_a_server_far_away_is_given_time_to_connect(server: Server) -> None:
    server.answer = lengths
    with contextlib.closing(Distance(server.port, seconds=0.7)) as far:
        with PredictionClient(far.address, timeout=10, attempts=1) as client:
            (score,) = client.score_images([b"abc"])
        assert score.values[0] == 3
        assert far.connections == 1


def test_nobody_there() -> None:
    with (
        PredictionClient("127.0.0.1:9", attempts=1) as client,
        pytest.raises(UnavailableError, match=r"cannot get an answer from 127\.0\.0\.1:9: .*edged"),
    ):
        client.score_images([b"x"])


def test_which_output(server: Server, client: PredictionClient) -> None:
    def two(request: wire.PredictRequest, _: object) -> wire.PredictResponse:
        row = np.zeros((1, 2), np.float32)
        return wire.PredictResponse(
            outputs={"a": wire.from_array(row), "b": wire.from_array(row + 1)}
        )

    server.answer = two
    assert client.score_images([b"x"], output_name="b")[0].values[0] == 1
    with pytest.raises(RequestError, match="no output was named; the server answers with 'a', 'b'"):
        client.score_images([b"x"])
    with pytest.raises(RequestError, match="there is no output 'c'"):
        client.score_images([b"x"], output_name="c")


def test_answers_that_make_no_sense(server: Server, client: PredictionClient) -> None:
    server.answer = lengths
    assert len(client.score_images([b"x", b"y"])) == 2
    server.answer = lambda request, context: wire.PredictResponse(
        outputs={"scores": wire.from_array(np.zeros((3, 2), np.float32))}
    )
    with pytest.raises(RequestError, match=r"1 images gave output 'scores' of shape \[3, 2\]"):
        client.score_images([b"x"])
    server.answer = lambda request, context: wire.PredictResponse(
        outputs={"scores": wire.TensorProto(dtype=wire.DataType.DT_INVALID)}
    )
    with pytest.raises(EdgedError, match="cannot read the answer of"):
        client.score_images([b"x"])


def test_top_is_by_value_and_stable() -> None:
    score = Score("y", np.array([0.1, 0.5, 0.5, 0.9, 0.0], np.float32))
    assert score.top(3) == [3, 1, 2]
    assert score.top(10) == [3, 1, 2, 0, 4]
