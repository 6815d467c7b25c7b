"""SIGTERM: what was accepted is answered, the rest is refused, and the status is 0."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import grpc.aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration.appliance import DATA, Appliance
from integration.crowd import Crowd, photo_request
from patience import PATIENCE

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


async def test_sigterm_under_load_answers_what_was_accepted_and_refuses_the_rest(
    appliance: Appliance, mobilenet: Path
) -> None:
    await asyncio.to_thread(appliance.put, mobilenet)
    assert appliance.daemon is not None
    target = f"unix:{appliance.socket}"
    async with (
        Crowd(target, photo_request(PHOTO), 8) as crowd,
        grpc.aio.insecure_channel(target) as channel,
    ):
        # Nor do those hold it up who never end what they ask.
        described = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await described.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await described.read()
        await crowd.until(lambda crowd: crowd.codes["OK"] > 24)
        began = time.monotonic()
        appliance.daemon.terminate()
        status = await asyncio.to_thread(appliance.daemon.wait, PATIENCE)
    assert status == 0, appliance.log.read_text()[-2000:]
    # Sent half the time of a call before, it was with the daemon.
    half = statistics.median(r.ended - r.asked for r in crowd.replies if r.code == "OK") / 2
    accepted = [r for r in crowd.replies if r.asked < began - half and r.ended > began]
    assert {reply.code for reply in accepted} <= {"OK"}
    assert crowd.codes.keys() == {"OK", "UNAVAILABLE"}, crowd.codes
    assert any(reply.hint for reply in crowd.replies)
    assert "Traceback" not in appliance.log.read_text()


def test_sigterm_with_nothing_loaded(appliance: Appliance) -> None:
    assert appliance.daemon is not None
    appliance.daemon.terminate()
    assert appliance.daemon.wait(PATIENCE) == 0
    assert "Traceback" not in appliance.log.read_text()


def test_a_second_daemon_on_the_same_state_is_refused(appliance: Appliance) -> None:
    process = appliance.spawn("edged", "--config", str(appliance.config))
    assert process.wait(PATIENCE) == 78
    assert "another edged is running" in appliance.log.read_text()
    assert appliance.daemon is not None
    assert appliance.daemon.poll() is None
