"""What a client of the appliance sees, from another machine."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np
from vm.bundles import PHOTO

from edged import wire
from edged.client import PredictionClient

__all__ = ["KWS", "MOBILENET", "Calls", "Client", "load"]

KWS, MOBILENET = "kws", "mobilenet-v2"
_PATIENCE = 120.0
"""Seconds for a call. Nothing may hang, but in a machine without KVM all takes long."""


class Client:
    """Asks whatever model serves on a port of this host."""

    def __init__(self, port: int) -> None:
        self._address = "127.0.0.1", port
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._call = self._channel.unary_unary(f"/{wire.PREDICT}")
        spoken = np.linspace(-40, 40, 490, dtype=np.float32).reshape(1, 49, 10, 1)
        photo = wire.from_array([PHOTO.read_bytes()])
        inputs = {KWS: {"input_1": wire.from_array(spoken)}, MOBILENET: {"images": photo}}
        self._requests = {
            model: wire.PredictRequest(inputs=tensors).SerializeToString()
            for model, tensors in inputs.items()
        }

    def close(self) -> None:
        self._channel.close()

    def ask(self, model: str) -> tuple[str, bytes]:
        """The gRPC status of a call with what *model* takes; its outputs' values, or its words."""
        return self._ask(self._requests[model])

    def ask_for_much(self, size: int) -> str:
        """The status of a call with a tensor of *size* bytes, which no model takes."""
        tensor = wire.from_array(np.zeros(size, np.uint8))
        request = wire.PredictRequest(inputs={"input_1": tensor})
        return self._ask(request.SerializeToString())[0]

    def _ask(self, request: bytes) -> tuple[str, bytes]:
        try:
            answer = self._call(request, timeout=_PATIENCE)
        except grpc.RpcError as error:
            return str(error.code().name), str(error.details()).encode()
        outputs = wire.PredictResponse.FromString(answer).outputs
        values = (wire.to_array(outputs[name]) for name in sorted(outputs))
        return "OK", b"".join(np.asarray(value).tobytes() for value in values)

    def serving(self) -> tuple[str, bytes]:
        """The model that answers, and what; else the status, twice the same, and why."""
        for model in (KWS, MOBILENET):
            status, values = self.ask(model)
            if status == "OK":
                return model, values
            if status != "INVALID_ARGUMENT":
                break
        return status, values

    def score(self) -> np.ndarray:
        """The scores that the photograph gets, by the client that edged comes with."""
        with PredictionClient(*self._address) as client:
            return np.asarray(client.score_file(str(PHOTO))).reshape(-1)


@dataclass
class Calls:
    """What became of calls, in the order in which they ended."""

    ended: list[tuple[float, float, str]] = field(default_factory=list)
    """When, after how many seconds, with which status."""
    unexpected: list[str] = field(default_factory=list)
    """What was said with any status but OK and UNAVAILABLE."""

    def count(self, status: str) -> int:
        return sum(said == status for _, _, said in self.ended)

    @property
    def statuses(self) -> set[str]:
        return {status for _, _, status in self.ended}

    @property
    def slowest(self) -> float:
        return max((seconds for _, seconds, _ in self.ended), default=0.0)

    @property
    def gap(self) -> float:
        """The longest time without an answer."""
        at = [when for when, _, status in sorted(self.ended) if status == "OK"]
        return max((later - when for when, later in itertools.pairwise(at)), default=0.0)

    def __str__(self) -> str:
        refused = {status: self.count(status) for status in sorted(self.statuses - {"OK"})}
        others = "".join(f", {number} {status}" for status, number in refused.items())
        return f"{self.count('OK')} answered{others}, the slowest after {self.slowest:.1f} s"


@contextlib.contextmanager
def load(port: int, model: str, clients: int = 2) -> Iterator[Calls]:
    """Clients that call all the time, with pauses as a person's program has them."""
    calls, over = Calls(), threading.Event()

    def work() -> None:
        client = Client(port)
        while not over.wait(0.05):
            began = time.monotonic()
            status, said = client.ask(model)
            ended = time.monotonic()
            calls.ended.append((ended, ended - began, status))
            if status not in ("OK", "UNAVAILABLE"):
                calls.unexpected.append(f"{status}: {said.decode()}")
        client.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        over.set()
        for thread in threads:
            thread.join()
