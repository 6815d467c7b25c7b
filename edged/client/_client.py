"""The client for programs that wait for their answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, overload

import grpc
import numpy.typing as npt

from edged.client._answers import Array, Outputs, Score, read_labels, read_outputs
from edged.client._base import ARRAY_SECONDS, CONFIG, FILE_SECONDS, METHOD, BaseClient
from edged.client._requests import (
    Inputs,
    RawTensor,
    of_arrays,
    of_images,
    of_tensors,
    read_file,
)
from edged.errors import UnsupportedError

__all__ = ["PredictionClient"]


class PredictionClient(BaseClient):
    """A channel to one server; a context manager, to be shared between threads.

    Code for ``azureml.accel.PredictionClient`` runs with this one by changing the import:
    constructor, methods, defaults and results are the same, without TensorFlow. Mended: a list of
    outputs works, and `score_file` takes the batch off each; tensors other than strings can be
    sent; a name that does not exist is an error that lists those that do; a call ends within its
    timeout, and is made again only where waiting helps (UNAVAILABLE, or RESOURCE_EXHAUSTED when the
    server says when to come back). New: a CA file, batches of images, all outputs by name.

    Every method raises, besides what it lists:

    - `RequestError`: the server refuses a name, dtype, shape or image, and says what it wants; or
      there is no such output.
    - `NotFoundError`: no model is loaded, or none of that name.
    - `UnavailableError`: it cannot be reached, or cannot answer now.
    - `DeadlineError`: there was no answer in time. `LimitError`: a message is too large.
    - `EdgedError`: anything else, by its gRPC status.
    """

    def _open(self) -> None:
        target, options = self._connection.target, self._connection.options
        if self._connection.credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, self._connection.credentials, options)
        self._predict = self._channel.unary_unary(METHOD)
        self._configure = self._channel.unary_unary(CONFIG)

    def close(self) -> None:
        """Close the channel; the client cannot be used any more."""
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

    @overload
    def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = ...,
        outputs: None = None,
        timeout: float = ...,
    ) -> Array | list[Array]: ...
    @overload
    def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = ...,
        *,
        outputs: str,
        timeout: float = ...,
    ) -> Array: ...
    @overload
    def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = ...,
        *,
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    @overload
    def score_file(
        self, path: str | os.PathLike[str], input_name: str, outputs: str, timeout: float = ...
    ) -> Array: ...
    @overload
    def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str,
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = "images",
        outputs: str | Sequence[str] | None = None,
        timeout: float = FILE_SECONDS,
    ) -> Array | list[Array]:
        """Score one image file; the server decodes and resizes it.

        Args:
            path: a JPEG or PNG.
            input_name: the input or its alias.
            outputs: which; ``None`` for all there are.
            timeout: seconds, all attempts together.

        Returns:
            The values without the batch, such as [classes]: an array for one name, or when there is
            one output; else a list of arrays.

        Raises:
            NotFoundError, InputError: the file is not there, or cannot be read.
        """
        inputs = of_images([read_file(path)], input_name)
        return self._call(inputs, outputs, timeout).without_batch().select(outputs)

    @overload
    def score_numpy_arrays(
        self, input_map: Mapping[str, npt.ArrayLike], outputs: None = None, timeout: float = ...
    ) -> Array | list[Array]: ...
    @overload
    def score_numpy_arrays(
        self, input_map: Mapping[str, npt.ArrayLike], outputs: str, timeout: float = ...
    ) -> Array: ...
    @overload
    def score_numpy_arrays(
        self,
        input_map: Mapping[str, npt.ArrayLike],
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    def score_numpy_arrays(
        self,
        input_map: Mapping[str, npt.ArrayLike],
        outputs: str | Sequence[str] | None = None,
        timeout: float = ARRAY_SECONDS,
    ) -> Array | list[Array]:
        """Score arrays as the model's inputs want them, the batch first.

        Args:
            input_map: input name or alias → [N, …]; an array of bytes is a string tensor.
            outputs: which; ``None`` for all there are.
            timeout: seconds, all attempts together. The original always took 30.

        Returns:
            [N, …]: an array for one name, or when there is one output; else a list of arrays.
        """
        return self._call(of_arrays(input_map), outputs, timeout).select(outputs)

    @overload
    def score_tensors(
        self, input_map: Mapping[str, RawTensor], outputs: None = None, timeout: float = ...
    ) -> Array | list[Array]: ...
    @overload
    def score_tensors(
        self, input_map: Mapping[str, RawTensor], outputs: str, timeout: float = ...
    ) -> Array: ...
    @overload
    def score_tensors(
        self,
        input_map: Mapping[str, RawTensor],
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    def score_tensors(
        self,
        input_map: Mapping[str, RawTensor],
        outputs: str | Sequence[str] | None = None,
        timeout: float = FILE_SECONDS,
    ) -> Array | list[Array]:
        """Score tensors from their bytes.

        Args:
            input_map: input name or alias → (data, shape, type). The type is a number of
                TensorFlow's enum, such as 7 or ``types_pb2.DT_STRING``, or a numpy dtype; the data
                are the elements' bytes, row major and little endian, or for DT_STRING one string or
                a sequence of them.
            outputs: which; ``None`` for all there are.
            timeout: seconds, all attempts together.

        Returns:
            [N, …]: an array for one name, or when there is one output; else a list of arrays.
        """
        return self._call(of_tensors(input_map), outputs, timeout).select(outputs)

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
        """
        outputs = self._call(of_images(images, input_name), output_name, self._timeout)
        return outputs.scores(len(images), output_name)

    def score_arrays(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """Score arrays as the model's inputs want them, the batch first.

        Args:
            inputs: input name or alias → [N, …].

        Returns:
            Every output's name → [N, …].
        """
        return self._call(of_arrays(inputs), None, self._timeout)

    def labels(self) -> list[str]:
        """The labels of the model's classes, in the order of its output.

        Returns:
            None of them where the model has none, or the server is one that does not say.
        """
        try:
            data = self._send(self._configure, self._config_request(), self._timeout)
        except UnsupportedError:
            return []
        return read_labels(data, self._connection.target)

    def _call(self, inputs: Inputs, wanted: str | Sequence[str] | None, timeout: float) -> Outputs:
        data = self._send(self._predict, self._request(inputs, wanted), timeout)
        return read_outputs(data, self._connection.target)

    def _send(self, method: Callable[..., bytes], request: bytes, timeout: float) -> bytes:
        attempts = self._attempts(timeout)
        while True:
            try:
                return method(
                    request, timeout=attempts.seconds(), metadata=self._connection.metadata
                )
            except grpc.RpcError as error:
                time.sleep(attempts.wait_after(error))
