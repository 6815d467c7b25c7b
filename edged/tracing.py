"""Calls as spans of OpenTelemetry, sent to the collector that the configuration names.

Nothing is sent, and the libraries are not imported, unless one is named. They are the extra `otel`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from edged import __version__
from edged.calls import Call, Outcome, TraceParent
from edged.errors import ConfigError, how_to_install

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["Tracing"]

_SERVICE: Final = "edged"
_SECONDS: Final = 2.0
"""For a batch, with all attempts; also the last one, which the end of edged waits for."""
_SERVER_FAULTS: Final = ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""Of gRPC's codes those that a server span calls an error (OpenTelemetry's conventions for RPC)."""


class Tracing:
    """A span for each call, and one below it for each stage.

    A call that is part of a trace is recorded if whoever began that has it recorded.

    Args:
        endpoint: where the collector takes OTLP over HTTP, ``http://127.0.0.1:4318/v1/traces``.
        part: of the calls that are part of no trace, how many begin one: 0 to 1.

    Raises:
        ConfigError: the libraries are not installed.
    """

    def __init__(self, endpoint: str, part: float) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise ConfigError(
                "cannot export traces: OpenTelemetry is not installed; "
                f"{how_to_install('opentelemetry-sdk', 'opentelemetry-exporter-otlp-proto-http')}"
                " does it, or take tracing.endpoint out of the configuration"
            ) from error
        # A collector that is away is no news every few seconds.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(part)),
            resource=Resource.create({"service.name": _SERVICE, "service.version": __version__}),
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SERVICE, __version__)

    def stop(self) -> None:
        """Send what is left; blocking, for some seconds at most."""
        self._provider.shutdown()

    def observe(self, call: Call, outcome: Outcome) -> None:
        """Record its span."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        end = time.time_ns()
        began = end - int(outcome.elapsed * 1e9)
        service, _, method = call.method.rpartition("/")
        span = self._tracer.start_span(
            call.method,
            context=_context(call.trace),
            kind=SpanKind.SERVER,
            start_time=began,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.response.status_code": outcome.code,
                "client.address": call.client,
                "edged.model": call.served_by,
                "edged.request_id": call.request_id,
                "edged.request_bytes": len(call.payload),
                "edged.response_bytes": outcome.response_bytes,
            },
        )
        if span.is_recording():
            below = set_span_in_context(span)
            at = began
            for stage, seconds in call.watch.steps.items():
                part = self._tracer.start_span(stage, context=below, start_time=at)
                at += int(seconds * 1e9)
                part.end(at)
            if outcome.code in _SERVER_FAULTS:
                span.set_status(StatusCode.ERROR)
        span.end(end)


def _context(trace: TraceParent | None) -> Context | None:
    """What makes a span part of *trace*."""
    if trace is None:
        return None
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    parent = SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT),
    )
    return set_span_in_context(NonRecordingSpan(parent))
