"""The client for programs that do other things while they wait."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, overload

import grpc
import grpc.aio
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

__all__ = ["AsyncPredictionClient"]


class AsyncPredictionClient(BaseClient):
    """`PredictionClient` for asyncio: the same arguments, results and errors, to be awaited.

    An asynchronous context manager. It may be made anywhere, and belongs to the event loop of its
    first call.
    """

    _channel: Any = None

    async def close(self) -> None:
        """Close the channel; calls under way end with an error."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @overload
    async def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = ...,
        outputs: None = None,
        timeout: float = ...,
    ) -> Array | list[Array]: ...
    @overload
    async def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = ...,
        *,
        outputs: str,
        timeout: float = ...,
    ) -> Array: ...
    @overload
    async def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = ...,
        *,
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    @overload
    async def score_file(
        self, path: str | os.PathLike[str], input_name: str, outputs: str, timeout: float = ...
    ) -> Array: ...
    @overload
    async def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str,
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    async def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = "images",
        outputs: str | Sequence[str] | None = None,
        timeout: float = FILE_SECONDS,
    ) -> Array | list[Array]:
        """As `PredictionClient.score_file`; the file is read in a thread."""
        data = await asyncio.to_thread(read_file, path)
        inputs = of_images([data], input_name)
        found = await self._call(inputs, outputs, timeout)
        return found.without_batch().select(outputs)

    @overload
    async def score_numpy_arrays(
        self, input_map: Mapping[str, npt.ArrayLike], outputs: None = None, timeout: float = ...
    ) -> Array | list[Array]: ...
    @overload
    async def score_numpy_arrays(
        self, input_map: Mapping[str, npt.ArrayLike], outputs: str, timeout: float = ...
    ) -> Array: ...
    @overload
    async def score_numpy_arrays(
        self,
        input_map: Mapping[str, npt.ArrayLike],
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    async def score_numpy_arrays(
        self,
        input_map: Mapping[str, npt.ArrayLike],
        outputs: str | Sequence[str] | None = None,
        timeout: float = ARRAY_SECONDS,
    ) -> Array | list[Array]:
        """As `PredictionClient.score_numpy_arrays`."""
        found = await self._call(of_arrays(input_map), outputs, timeout)
        return found.select(outputs)

    @overload
    async def score_tensors(
        self, input_map: Mapping[str, RawTensor], outputs: None = None, timeout: float = ...
    ) -> Array | list[Array]: ...
    @overload
    async def score_tensors(
        self, input_map: Mapping[str, RawTensor], outputs: str, timeout: float = ...
    ) -> Array: ...
    @overload
    async def score_tensors(
        self,
        input_map: Mapping[str, RawTensor],
        outputs: list[str] | tuple[str, ...],
        timeout: float = ...,
    ) -> list[Array]: ...
    async def score_tensors(
        self,
        input_map: Mapping[str, RawTensor],
        outputs: str | Sequence[str] | None = None,
        timeout: float = FILE_SECONDS,
    ) -> Array | list[Array]:
        """As `PredictionClient.score_tensors`."""
        found = await self._call(of_tensors(input_map), outputs, timeout)
        return found.select(outputs)

    async def score_images(
        self, images: Sequence[bytes], *, input_name: str = "images", output_name: str | None = None
    ) -> list[Score]:
        """As `PredictionClient.score_images`."""
        outputs = await self._call(of_images(images, input_name), output_name, self._timeout)
        return outputs.scores(len(images), output_name)

    async def score_arrays(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """As `PredictionClient.score_arrays`."""
        return await self._call(of_arrays(inputs), None, self._timeout)

    async def labels(self) -> list[str]:
        """As `PredictionClient.labels`."""
        try:
            data = await self._send(CONFIG, self._config_request(), self._timeout)
        except UnsupportedError:
            return []
        return read_labels(data, self._connection.target)

    async def _call(
        self, inputs: Inputs, wanted: str | Sequence[str] | None, timeout: float
    ) -> Outputs:
        data = await self._send(METHOD, self._request(inputs, wanted), timeout)
        return read_outputs(data, self._connection.target)

    async def _send(self, method: str, request: bytes, timeout: float) -> bytes:
        attempts = self._attempts(timeout)
        send = self._method(method)
        while True:
            try:
                return await send(
                    request, timeout=attempts.seconds(), metadata=self._connection.metadata
                )
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.wait_after(error))

    def _method(self, name: str) -> Callable[..., Awaitable[bytes]]:
        """Opens the channel with the first call: it belongs to the loop that runs then."""
        if self._channel is None:
            target, options = self._connection.target, self._connection.options
            if self._connection.credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options)
            else:
                self._channel = grpc.aio.secure_channel(
                    target, self._connection.credentials, options
                )
        method: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(name)
        return method
