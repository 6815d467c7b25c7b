"""More calls than the device can do: who is refused, who waits, and for how long."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc.aio
import pytest
from integration.appliance import DATA, Appliance
from integration.crowd import Crowd, Reply, photo_request
from patience import PATIENCE

from edged import wire
from edged.slot import AT_ONCE

PHOTO = photo_request((DATA / "images" / "schoolbus.jpg").read_bytes())
QUEUED = 10


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def crowded(tmp_path: Path, port: int, mobilenet: Path) -> Iterator[Appliance]:
    """One that holds few calls, on a UNIX socket and on TCP."""
    appliance = Appliance(tmp_path)
    text = appliance.config.read_text()
    here = '[serving]\nlisten = "127.0.0.1:0"'
    assert here in text
    appliance.config.write_text(text.replace(here, here.replace(":0", f":{port}")))
    appliance.set("serving", f"max_queued_calls = {QUEUED}")
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        assert appliance.put(mobilenet).startswith("serving since")
        yield appliance
    finally:
        appliance.close()


def waited(replies: Sequence[Reply], answered: Sequence[Reply]) -> float:
    """How many of *answered* came while one of *replies* was waited for: the median."""
    return statistics.median(
        sum(reply.asked <= other.ended <= reply.ended for other in answered) for reply in replies
    )


async def test_a_greedy_client_is_refused_and_a_modest_one_has_its_turns(
    crowded: Appliance, port: int
) -> None:
    async with Crowd(f"unix:{crowded.socket}", PHOTO, 4 * QUEUED) as greedy:
        await greedy.until(lambda crowd: crowd.codes["RESOURCE_EXHAUSTED"] > 2 * QUEUED)
        async with Crowd(f"127.0.0.1:{port}", PHOTO, 1) as modest:
            await modest.until(lambda crowd: len(crowd.replies) >= 21)
    assert set(modest.codes) == {"OK"}
    refused = [reply for reply in greedy.replies if reply.code != "OK"]
    assert not {reply.details for reply in refused if reply.code != "RESOURCE_EXHAUSTED"}
    assert all(reply.hint for reply in refused)
    assert f"serving.max_queued_calls is {QUEUED}" in refused[0].details
    # It waits for what is being answered and for one more of the other's, 7 in all; the greedy one
    # for the whole line, 15. Both see answers late where the machine is slow.
    began, ended = modest.replies[0].asked, modest.replies[-1].ended
    answered = [
        r for r in greedy.replies if r.code == "OK" and began <= r.asked <= r.ended <= ended
    ]
    assert 4 * waited(modest.replies, answered) < 3 * waited(answered, answered)

    # Those that gave up left no trace.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        predict = channel.unary_unary(f"/{wire.PREDICT}")
        given_up = [predict(PHOTO) for _ in range(AT_ONCE + QUEUED)]
        await channel.channel_ready()
        for call in given_up:
            call.cancel()
        for _ in range(3):
            await predict(PHOTO, timeout=PATIENCE, metadata=(("edged-priority", "low"),))
        with pytest.raises(grpc.aio.AioRpcError, match="none of high, normal, low"):
            await predict(PHOTO, metadata=(("edged-priority", "urgent"),))
