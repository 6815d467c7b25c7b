"""A server per test, and a client for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client.server import Server
from patience import PATIENCE

from edged.client import PredictionClient


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[PredictionClient]:
    with PredictionClient(server.address, timeout=PATIENCE) as client:
        yield client
