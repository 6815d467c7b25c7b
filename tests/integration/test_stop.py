"""SIGTERM: what was accepted is answered, the rest is refused, and the status is 0."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
from integration.appliance import DATA, Appliance, eventually

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


def test_sigterm_under_load_drains(appliance: Appliance, mobilenet: Path) -> None:
    appliance.put(mobilenet)
    assert appliance.daemon is not None
    answered: list[int] = []
    refused: list[grpc.StatusCode] = []

    def load() -> None:
        while not refused:
            try:
                appliance.score_images(PHOTO)
                answered.append(1)
            except grpc.RpcError as error:
                refused.append(error.code())

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answered) > 10, "some answers")
    appliance.daemon.terminate()
    # Without a server, a call that waits for one would wait until its deadline.
    status = appliance.daemon.wait(30)
    appliance.channel.close()
    for thread in threads:
        thread.join()
    assert status == 0, appliance.log.read_text()[-2000:]
    assert set(refused) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert "Traceback" not in appliance.log.read_text()


def test_sigterm_with_nothing_loaded(appliance: Appliance) -> None:
    assert appliance.daemon is not None
    appliance.daemon.terminate()
    assert appliance.daemon.wait(30) == 0
    assert "Traceback" not in appliance.log.read_text()


def test_a_second_daemon_on_the_same_state_is_refused(appliance: Appliance) -> None:
    process = appliance.spawn("edged", "--config", str(appliance.config))
    assert process.wait(30) == 78
    assert "another edged is running" in appliance.log.read_text()
    assert appliance.daemon is not None
    assert appliance.daemon.poll() is None
