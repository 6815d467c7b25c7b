"""Over sockets that were listening before, as systemd's are; and that labels are bounded."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from patience import PATIENCE
from prometheus_client.parser import text_string_to_metric_families

from edged.calls import Call, Outcome
from edged.management import DeviceReport
from edged.metrics import Metrics, MetricsServer
from edged.slot import Event, SlotStatus, State
from edged.store import BundleRecord


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", lambda: 0, lambda: 0, lambda: DeviceReport(False, ""))


async def test_a_socket_that_is_given_is_used_and_stays_open(
    metrics: Metrics, tmp_path: Path
) -> None:
    path = str(tmp_path / "metrics.sock")
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        unix.bind(path)
        unix.listen()
        # Its own address is in use: it would not start, would it want it.
        server = MetricsServer(
            metrics, "127.0.0.1", taken.getsockname()[1], lambda: "", [unix.dup(), tcp.dup()]
        )
        port = tcp.getsockname()[1]
        assert await server.start() == [f"unix:{path}", f"http://127.0.0.1:{port}"]
        for connector, url in (
            (aiohttp.UnixConnector(path), "http://edged/metrics"),
            (aiohttp.TCPConnector(), f"http://127.0.0.1:{port}/metrics"),
        ):
            async with aiohttp.ClientSession(connector=connector) as session:
                answer = await session.get(url)
                assert 'edged_build_info{version="1.2.3"} 1.0' in await answer.text()
        # One that connects just before the end is answered.
        reader, writer = await asyncio.open_unix_connection(path)
        stopping = asyncio.create_task(server.stop())
        for _ in range(10):  # turns of the loop
            await asyncio.sleep(0)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: edged\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.read()).endswith(b"ok\n")
        writer.close()
        await stopping
        # Whoever held it before goes on doing so: the next edged finds who asks meanwhile.
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(path)
            unix.accept()[0].close()


def test_however_many_models_serve_their_labels_are_few(metrics: Metrics) -> None:
    call = Call("tensorflow.serving.PredictionService/Predict", b"", time.monotonic())
    for number in range(60):
        manifest = SimpleNamespace(name=f"net-{number}", version="1.0.0")
        model = cast(BundleRecord, SimpleNamespace(manifest=manifest, digest=f"sha256:{number}"))
        metrics.slot_event(Event.SWAPPED, SlotStatus(State.SERVING, model, time.time(), ""))
        metrics.observe(call, Outcome("OK", 0, 0.001, 0.001))
    series = [
        sample
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    ]
    counted = [sample for sample in series if sample.name == "edged_calls_total"]
    assert len(counted) == 51
    (rest,) = (sample for sample in counted if sample.labels["model"] == "other")
    assert rest.value == 10
    (loaded,) = (sample for sample in series if sample.name == "edged_model_loaded")
    assert loaded.labels == {"model": "other", "version": "1.0.0", "digest": "sha256:59"}
