"""The device goes away under load: a clear answer at once, and service again when it is back."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
from integration.appliance import DATA, Appliance, eventually

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


def test_killing_the_emulator_under_load(appliance: Appliance, mobilenet: Path) -> None:
    assert appliance.put(mobilenet).startswith("serving since")
    stop = threading.Event()
    codes: list[grpc.StatusCode] = []
    hint: set[str] = set()

    def load() -> None:
        while not stop.is_set():
            try:
                appliance.score_images(PHOTO)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
                hint.update(str(key) for key, _ in error.trailing_metadata() or ())
            codes.append(code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(codes) > 20, "some answers")
        before = len(codes)
        appliance.kill(appliance.emulator)
        eventually(lambda: grpc.StatusCode.UNAVAILABLE in codes[before:], "UNAVAILABLE")
        appliance.device.unlink(missing_ok=True)
        appliance.start_emulator()
        back = len(codes)
        eventually(
            lambda: codes[back:][-5:] == [grpc.StatusCode.OK] * 5,
            "service after the device came back",
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    # None hung while the device was away: that would be DEADLINE_EXCEEDED.
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert "grpc-retry-pushback-ms" in hint
