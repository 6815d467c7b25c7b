"""A load generator: its own process, one channel a client, every answer checked.

    python bench/load.py ADDRESS PHOTO EXPECTED.json [--full 1] [--steady 8] [--rate 5]

EXPECTED.json maps a model's name to the SHA-256 of its answer to PHOTO: the device is
deterministic, so one model gives one answer, to the bit. Prints one JSON object when its standard
input closes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc

from edged import wire


def fingerprint(answer: wire.PredictResponse) -> str:
    """SHA-256 over the floats of the first output."""
    (output,) = answer.outputs.values()
    return hashlib.sha256(str(list(output.float_val)).encode()).hexdigest()


def request(photo: bytes) -> bytes:
    tensor = wire.TensorProto(
        dtype=wire.DataType.DT_STRING,
        tensor_shape=wire.TensorShapeProto(dim=[{"size": 1}]),
        string_val=[photo],
    )
    return wire.PredictRequest(inputs={"images": tensor}).SerializeToString()


class Load:
    """What all clients together have seen."""

    def __init__(self, address: str, photo: bytes, expected: dict[str, str]) -> None:
        self._address = address
        self._payload = request(photo)
        self._expected = expected
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.wrong = 0
        self.worst = 0.0
        self.latencies: list[float] = []

    def client(self, pause: float) -> None:
        """Call until told to stop, *pause* seconds apart, over one channel."""
        with grpc.insecure_channel(
            self._address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_unary(
                f"/{wire.PREDICT}", response_deserializer=wire.PredictResponse.FromString
            )
            due = time.monotonic()
            while not self._stop.is_set():
                start = time.monotonic()
                try:
                    self._note(call(self._payload, timeout=30), time.monotonic() - start)
                except grpc.RpcError as error:
                    with self._lock:
                        self.failed[f"{error.code().name}: {error.details()}"] += 1
                due = max(due + pause, time.monotonic() - pause)
                self._stop.wait(max(0.0, due - time.monotonic()))

    def _note(self, answer: wire.PredictResponse, seconds: float) -> None:
        name = answer.model_spec.name
        with self._lock:
            self.answered[name] += 1
            self.wrong += fingerprint(answer) != self._expected.get(name)
            self.latencies.append(seconds)

    def stop(self) -> None:
        self._stop.set()

    def report(self) -> dict[str, object]:
        taken = sorted(self.latencies)

        def at(fraction: float) -> float:
            return round(taken[int(fraction * (len(taken) - 1))] * 1000, 2) if taken else 0.0

        return {
            "answered": dict(self.answered),
            "failed": dict(self.failed),
            "wrong": self.wrong,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "worst_ms": at(1.0),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("photo", type=Path)
    parser.add_argument("expected", type=Path)
    parser.add_argument("--full", type=int, default=1, help="clients at full speed")
    parser.add_argument("--steady", type=int, default=8, help="clients at a steady rate")
    parser.add_argument("--rate", type=float, default=2.0, help="calls a second of each of those")
    options = parser.parse_args()
    expected = json.loads(options.expected.read_text())
    load = Load(options.address, options.photo.read_bytes(), expected)
    pauses = [0.0] * options.full + [1 / options.rate] * options.steady
    threads = [threading.Thread(target=load.client, args=(pause,)) for pause in pauses]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    load.stop()
    for thread in threads:
        thread.join()
    json.dump(load.report(), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
