"""NVIDIA's perf_analyzer, which measures servers of both protocols; see docs/conformance.md."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from integration.appliance import Appliance

PERF_ANALYZER = os.environ.get("EDGED_PERF_ANALYZER", "")
SHARED = ("--shared-memory", "system", "--output-shared-memory-size", "65536")


@pytest.mark.skipif(
    not PERF_ANALYZER, reason="EDGED_PERF_ANALYZER names no perf_analyzer; see docs/clients.md"
)
@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("grpc", ("--service-kind", "tfserving")),
        ("grpc", ()),
        ("http", ()),
        ("grpc", SHARED),
    ],
    ids=["tfserving", "triton", "triton-http", "triton-shared-memory"],
)
def test_perf_analyzer(serving: Appliance, protocol: str, words: tuple[str, ...]) -> None:
    address = serving.http if protocol == "http" else f"unix:{serving.socket}"
    command = [PERF_ANALYZER, "-m", "sample", "-i", protocol, "-u", address, *words]
    command += ["-b", "1", "--shape", "images:16,16,3", "--measurement-interval", "500"]
    # How steady this machine is does not matter.
    command += ["--concurrency-range", "1:1", "-s", "500", "-r", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Concurrency: 1, throughput: [1-9]", done.stdout), done.stdout
