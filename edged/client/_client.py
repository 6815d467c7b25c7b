"""Images and arrays in, arrays out, over gRPC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from edged import wire
from edged.errors import EdgedError, InputError, RequestError, by_grpc_status

__all__ = ["PredictionClient", "Score"]

MAX_MESSAGE_BYTES: Final = 256 << 20
"""gRPC's own bound of 4 MiB is less than a batch of photographs."""

_MAX_RETRIED_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of one input.

    Attributes:
        output: the name of the output, as the server gave it.
        values: its values without the batch, such as [classes].
    """

    output: str
    values: npt.NDArray[Any]

    def top(self, count: int) -> list[int]:
        """The indices of the *count* largest values, the largest first."""
        flat = self.values.reshape(-1)
        return [int(index) for index in np.argsort(-flat, kind="stable")[:count]]


class PredictionClient:
    """A channel to one server; a context manager, to be shared between threads.

    Args:
        address: ``HOST:PORT`` or ``unix:/PATH``.
        timeout: seconds for a call, all attempts together.
        attempts: how often a call is made while the server is UNAVAILABLE; other errors are final.
        model: the name of the model to ask; empty for the loaded one.
    """

    def __init__(
        self, address: str, *, timeout: float = 30.0, attempts: int = 4, model: str = ""
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._model = model
        self._channel = grpc.insecure_channel(address, _options(attempts))
        self._predict = self._channel.unary_unary(f"/{wire.PREDICT}")

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def score_images(
        self, images: Sequence[bytes], *, input_name: str = "images", output_name: str | None = None
    ) -> list[Score]:
        """Score encoded images in one call; the server decodes and resizes them.

        Args:
            images: the bytes of JPEG or PNG files.
            input_name: the input or its alias.
            output_name: which output; ``None`` when there is one.

        Returns:
            One score for each image.

        Raises:
            RequestError: the server refuses the images or the names; says what it wants.
            UnavailableError: it cannot be reached, or has no model now.
            EdgedError: other errors, by their gRPC status.
        """
        outputs = self._call({input_name: wire.from_array(list(images))})
        name = _choose(outputs, output_name)
        values = outputs[name]
        if values.shape[:1] != (len(images),):
            raise RequestError(
                f"cannot tell the scores apart: {len(images)} images gave output {name!r} of shape "
                f"{list(values.shape)}; wanted the batch first"
            )
        return [Score(name, row) for row in values]

    def score_arrays(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Score tensors as the model's inputs want them, the batch first.

        Args:
            inputs: input name or alias → [N, …].

        Returns:
            Output name → [N, …].

        Raises:
            As `score_images`.
        """
        return self._call(
            {name: wire.from_array(array, content=True) for name, array in inputs.items()}
        )

    def _call(self, inputs: Mapping[str, wire.TensorProto]) -> dict[str, npt.NDArray[Any]]:
        request = wire.PredictRequest(inputs=inputs)
        if self._model:
            request.model_spec.name = self._model
        try:
            data = self._predict(request.SerializeToString(), timeout=self._timeout)
            response = wire.PredictResponse.FromString(data)
            return {
                name: np.asarray(wire.to_array(tensor, name=name))
                for name, tensor in response.outputs.items()
            }
        except grpc.RpcError as error:
            raise _translate(error, self._address) from error
        except (DecodeError, InputError) as error:
            raise EdgedError(f"cannot read the answer of {self._address}: {error}") from error


def _options(attempts: int) -> list[tuple[str, int | str]]:
    retry = {
        "maxAttempts": attempts,
        "initialBackoff": "0.2s",
        "maxBackoff": "3s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retry}]} if attempts > 1 else {}
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.per_rpc_retry_buffer_size", _MAX_RETRIED_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ]


def _translate(error: Any, address: str) -> EdgedError:
    status, details = error.code().name, error.details() or ""
    if not details.startswith("cannot "):  # then it is gRPC's own, and not from edged
        details = f"cannot get an answer from {address}: {details} ({status}); is edged there?"
    return by_grpc_status(status)(details)


def _choose(outputs: Mapping[str, npt.NDArray[Any]], name: str | None) -> str:
    if name is None and len(outputs) == 1:
        return next(iter(outputs))
    if name in outputs:
        return str(name)
    there = ", ".join(repr(output) for output in sorted(outputs)) or "none"
    wanted = "no output was named" if name is None else f"there is no output {name!r}"
    raise RequestError(f"cannot pick an output: {wanted}; the server answers with {there}")
