"""Clients that call without a pause, each over its own connection, and note what comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc.aio
from patience import PATIENCE

from edged import wire

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.max_receive_message_length", -1),
)
# After a refusal; a client that comes back at once would be a hostile one.
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call came to.

    Attributes:
        asked, ended: by time.monotonic().
        code: the status, ``OK`` for an answer.
        details: what the server said beside it.
        hint: whether it said when to come again.
    """

    asked: float
    ended: float
    code: str
    details: str = ""
    hint: bool = False


class Crowd:
    """An asynchronous context manager: they call while it is entered.

    Args:
        target: as gRPC takes it.
        payload: of each call.
        size: how many clients there are.
    """

    def __init__(self, target: str, payload: bytes, size: int) -> None:
        self._target = target
        self._payload = payload
        self._size = size
        self._clients: list[asyncio.Task[None]] = []
        self._over = False
        self.replies: list[Reply] = []

    async def __aenter__(self) -> Self:
        self._clients = [asyncio.create_task(self._client()) for _ in range(self._size)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        await asyncio.gather(*self._clients)

    @property
    def codes(self) -> Counter[str]:
        return Counter(reply.code for reply in self.replies)

    async def until(self, condition: Callable[[Self], bool], patience: float = PATIENCE) -> None:
        """Wait for *condition*.

        Raises:
            TimeoutError: it did not come.
        """
        async with asyncio.timeout(patience):
            while not condition(self):
                await asyncio.sleep(0.005)

    async def _client(self) -> None:
        async with grpc.aio.insecure_channel(self._target, options=_OPTIONS) as channel:
            predict = channel.unary_unary(f"/{wire.PREDICT}")
            while not self._over:
                asked = time.monotonic()
                try:
                    await predict(self._payload, timeout=PATIENCE)
                    self.replies.append(Reply(asked, time.monotonic(), "OK"))
                except grpc.aio.AioRpcError as error:
                    hint = any(
                        key == "grpc-retry-pushback-ms" for key, _ in error.trailing_metadata()
                    )
                    self.replies.append(
                        Reply(
                            asked, time.monotonic(), error.code().name, error.details() or "", hint
                        )
                    )
                    await asyncio.sleep(_PAUSE)


def photo_request(photo: bytes) -> bytes:
    """Predict of one photograph."""
    tensor = wire.TensorProto(
        dtype=wire.DataType.DT_STRING,
        tensor_shape=wire.TensorShapeProto(dim=[{"size": 1}]),
        string_val=[photo],
    )
    return wire.PredictRequest(inputs={"images": tensor}).SerializeToString()
