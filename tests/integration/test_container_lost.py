"""The container dies under load: its calls fail with a clear answer, and another takes over."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import grpc
from integration.appliance import DATA, Appliance, eventually

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


def workers(appliance: Appliance) -> list[int]:
    """Process ids of this appliance's containers."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        state = str(appliance.folder / "state").encode()
        if b"edged.container.worker" in words and any(state in word for word in words):
            found.append(int(process.parent.name))
    return found


def test_killing_the_container_costs_no_more_than_the_calls_inside(
    appliance: Appliance, mobilenet: Path
) -> None:
    appliance.put(mobilenet)
    first = workers(appliance)
    assert first
    for pid in first:
        # One that only wraps another ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    codes: list[grpc.StatusCode] = []

    def answered() -> bool:
        try:
            appliance.score_images(PHOTO)
        except grpc.RpcError as error:
            codes.append(error.code())
            return False
        return True

    eventually(answered, "an answer from another container")
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
    assert not set(workers(appliance)) & set(first)
    assert appliance.daemon is not None
    assert appliance.daemon.poll() is None
