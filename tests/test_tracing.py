"""Spans, as a collector gets them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from edged.calls import Call, Observed, TraceParent
from edged.errors import DeadlineError
from edged.tracing import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(HTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def answer(call: Call) -> bytes:
    await asyncio.sleep(0.01)
    call.watch.lap("queue")
    await asyncio.sleep(0.02)
    call.watch.lap("device")
    call.served_by = "kws 1.0.0"
    if call.payload == b"late":
        raise DeadlineError("cannot answer in time")
    return b"yes"


def call(payload: bytes, sampled: bool | None) -> Call:
    trace = None if sampled is None else TraceParent(TRACE, PARENT, sampled)
    return Call("x.Y/Predict", payload, time.monotonic() + 5, client="192.0.2.7", trace=trace)


async def test_a_call_is_a_span_of_its_callers_trace_with_its_stages_below(
    collector: Collector,
) -> None:
    tracing = Tracing(f"http://127.0.0.1:{collector.server_port}/v1/traces", 0.0)
    traced = Observed(answer, [tracing.observe])
    assert await traced(call(b"now", sampled=True)) == b"yes"
    with pytest.raises(DeadlineError):
        await traced(call(b"late", sampled=True))
    # Neither one that its caller does not record, nor one of no trace when none are to begin.
    await traced(call(b"now", sampled=False))
    await traced(call(b"now", sampled=None))
    await asyncio.to_thread(tracing.stop)

    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    roots = [span for span in collector.spans if span.name == "x.Y/Predict"]
    assert [root.parent_span_id.hex() for root in roots] == [PARENT, PARENT]
    assert [root.status.code for root in roots] == [
        Status.STATUS_CODE_UNSET,
        Status.STATUS_CODE_ERROR,
    ]
    known = {each.key: each.value.string_value for each in roots[0].attributes}
    assert known["rpc.method"] == "Predict"
    assert known["edged.model"] == "kws 1.0.0"
    stages = [span for span in collector.spans if span.parent_span_id == roots[0].span_id]
    queue, device = sorted(stages, key=lambda span: span.start_time_unix_nano)
    assert (queue.name, device.name) == ("queue", "device")
    assert roots[0].start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == device.start_time_unix_nano
    assert device.end_time_unix_nano <= roots[0].end_time_unix_nano + 1_000_000
    assert device.end_time_unix_nano - device.start_time_unix_nano >= 19_000_000
