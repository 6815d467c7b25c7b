"""The metrics, and how they come about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from edged.calls import Call, Outcome
from edged.management import DeviceReport
from edged.metrics._device import DeviceCollector
from edged.slot import Event, SlotStatus, State

__all__ = ["Metrics"]

_MOST_MODELS: Final = 50
"""Names of models that are told apart; those that come after are "other"."""

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


_STAGE_SECONDS: Final = (0.0001, 0.0002, 0.0005, *_SECONDS)


class Metrics:
    """Everything that is counted, in a registry of its own.

    Args:
        version: of edged.
        running: how many calls there are now.
        queued: how many of them wait for their turn.
        device_report: what is known of the device now.
    """

    def __init__(
        self,
        version: str,
        running: Callable[[], int],
        queued: Callable[[], int],
        device_report: Callable[[], DeviceReport],
    ) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(DeviceCollector(device_report))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("edged_build", "What runs here.", registry=registry).info({"version": version})
        self._calls = Counter(
            "edged_calls",
            "Calls that were answered, by gRPC status code.",
            ("method", "model", "code"),
            registry=registry,
        )
        self._call_seconds = Histogram(
            "edged_call_seconds",
            "What a call took in the daemon, from its last byte to its answer.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "edged_call_stage_seconds",
            "What of that went where: waiting for its turn, to the model's container and back, and"
            " its stages there.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "edged_call_bytes",
            "Sizes of requests and responses, before they are parsed and after they are built.",
            ("direction",),
            registry=registry,
        )
        Gauge("edged_calls_running", "Calls in the daemon.", registry=registry).set_function(
            running
        )
        Gauge(
            "edged_calls_queued", "Those of them that wait for their turn.", registry=registry
        ).set_function(queued)
        self._events = Counter(
            "edged_slot_events",
            "What happened to the slot: swapped, rolled back, container lost, device lost, …",
            ("event",),
            registry=registry,
        )
        self._state = Gauge(
            "edged_slot_state",
            "1 for the state that the slot is in.",
            ("state",),
            registry=registry,
        )
        self._model = Gauge(
            "edged_model_loaded",
            "1 for the model that serves.",
            ("model", "version", "digest"),
            registry=registry,
        )
        self._gate_closed = Histogram(
            "edged_gate_closed_seconds",
            "For how long calls were held by a change of models.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._names: set[str] = set()
        self._serving = ""
        self._closed_at: float | None = None
        for event in Event:
            self._events.labels(event.value)
        self._show(State.ABSENT)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def observe(self, call: Call, outcome: Outcome) -> None:
        """Count a call, and time it by the stages that its watch was told."""
        method = call.method.rpartition("/")[2]
        self._calls.labels(method, self._serving, outcome.code).inc()
        self._call_seconds.labels(method).observe(outcome.seconds)
        for stage, took in call.watch.steps.items():
            self._stage_seconds.labels(stage).observe(took)
        self._bytes.labels("request").inc(len(call.payload))
        self._bytes.labels("response").inc(outcome.response_bytes)

    def slot_event(self, event: Event, status: SlotStatus) -> None:
        """Note what happened to the slot; see :meth:`edged.slot.Slot.on_event`."""
        self._events.labels(event.value).inc()
        self._show(status.state)
        if event is Event.SWAP:
            self._closed_at = time.monotonic()
        elif self._closed_at is not None:
            self._gate_closed.observe(time.monotonic() - self._closed_at)
            self._closed_at = None
        self._model.clear()
        self._serving = ""
        if status.model is not None and status.since is not None:
            manifest = status.model.manifest
            self._serving = self._bounded(manifest.name)
            self._model.labels(self._serving, str(manifest.version), str(status.model.digest)).set(
                1
            )

    def _show(self, state: State) -> None:
        for other in State:
            self._state.labels(other.value).set(other is state)

    def _bounded(self, name: str) -> str:
        if name not in self._names and len(self._names) >= _MOST_MODELS:
            return "other"
        self._names.add(name)
        return name
