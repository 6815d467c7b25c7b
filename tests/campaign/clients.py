"""Clients that keep calling, and know the right answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from edged import wire

__all__ = ["Clients", "Question", "Reply"]

_OPTIONS = [
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Each has its own connection, as clients in different processes have.
    ("grpc.use_local_subchannel_pool", 1),
]
_SECONDS = 10.0
_PAUSE = 0.03


class Question:
    """One Predict call, the same for every model."""

    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        tensors = {name: wire.from_array(array) for name, array in inputs.items()}
        self._request = wire.PredictRequest(inputs=tensors).SerializeToString()

    def ask(self, channel: grpc.Channel, seconds: float = _SECONDS) -> bytes:
        """The outputs, as comparable bytes."""
        call = channel.unary_unary(
            f"/{wire.PREDICT}", response_deserializer=wire.PredictResponse.FromString
        )
        outputs = call(self._request, timeout=seconds).outputs
        return b"".join(
            name.encode() + np.asarray(wire.to_array(outputs[name])).tobytes()
            for name in sorted(outputs)
        )


@dataclass(frozen=True)
class Reply:
    """What one call came to.

    Attributes:
        at, seconds: when it was asked, by time.monotonic(), and how long it took.
        model: whose answer it was; "?" is nobody's; empty when there was none.
        error: the status code's name, empty when there was an answer.
    """

    at: float
    seconds: float
    model: str = ""
    error: str = ""
    details: str = ""


class Clients:
    """Several at a time, each over a channel of its own, until the context ends.

    Args:
        answers: the model's name by its answer.
    """

    def __init__(self, socket: Path, question: Question, answers: dict[bytes, str]) -> None:
        self._socket, self._question, self._answers = socket, question, answers
        self._replies: list[Reply] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def replies(self) -> list[Reply]:
        return list(self._replies)

    def latest(self) -> str:
        """The model whose answer came last; the error's code, when it was none."""
        replies = self._replies
        return replies[-1].model or replies[-1].error if replies else "nothing"

    def errors(self) -> Counter[str]:
        return Counter(reply.error for reply in self.replies if reply.error)

    def _run(self) -> None:
        with grpc.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
            while not self._stop.wait(_PAUSE):
                began = time.monotonic()
                try:
                    answer = self._question.ask(channel)
                except grpc.RpcError as error:
                    taken = time.monotonic() - began
                    code, details = error.code().name, error.details() or ""
                    self._replies.append(Reply(began, taken, "", code, details))
                else:
                    model = self._answers.get(answer, "?")
                    self._replies.append(Reply(began, time.monotonic() - began, model))
