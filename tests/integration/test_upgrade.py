"""An upgrade: images of an earlier ABI in the store, and a device of an earlier ABI."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from integration.appliance import Appliance, eventually, keywords

from edged import wire
from edged.compiler import COMPILER_VERSION
from edged.errors import ImageError
from edged.npu import (
    ABI,
    EMULATOR_SHELL,
    Array,
    FirmwareKind,
    parse_image,
    serialize_firmware,
)
from edged.npu.regmap import IMAGE_MAGIC


def stop_daemon(appliance: Appliance) -> None:
    assert appliance.daemon is not None
    appliance.daemon.send_signal(signal.SIGTERM)
    assert appliance.daemon.wait(60) == 0


def entries(appliance: Appliance) -> list[Path]:
    return sorted((appliance.folder / "state" / "compiled").iterdir())


def of_abi_1(entry: Path) -> None:
    """Make a compiled model what the last edged of ABI 1 left of it: its compiler was version 7.

    Its key did not have the ABI, and the image's header says 1 where every version says which.
    """
    info = json.loads((entry / ".info.json").read_text())
    image = bytearray((entry / "program.img").read_bytes())
    at = len(IMAGE_MAGIC)
    assert image[at : at + 2] == ABI.to_bytes(2, "little")
    image[at : at + 2] = (1).to_bytes(2, "little")
    with pytest.raises(ImageError, match="ABI 1"):
        parse_image(image)
    key = {"bundle": info["key"]["bundle"], "compiler_version": "7", "array": info["key"]["array"]}
    info["key"] = key
    info["files"]["program.img"] = f"sha256:{hashlib.sha256(image).hexdigest()}"
    for name, content in (("program.img", image), (".info.json", json.dumps(info).encode())):
        (entry / name).chmod(0o600)
        (entry / name).unlink()
        (entry / name).write_bytes(content)
    name = hashlib.sha256(json.dumps(list(key.values())).encode()).hexdigest()
    entry.rename(entry.with_name(name))


def scores(appliance: Appliance) -> np.ndarray:
    inputs = {"input_1": wire.from_array(keywords()[0][:4])}
    (output,) = appliance.predict(inputs).outputs.values()
    return np.asarray(wire.to_array(output))


def test_images_of_abi_1_are_compiled_anew_and_what_served_serves(
    appliance: Appliance, kws: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert appliance.put(second).startswith("serving since")
    assert appliance.put(kws).startswith("serving since")
    before = scores(appliance)
    stop_daemon(appliance)
    assert len(entries(appliance)) == 2
    for entry in entries(appliance):
        of_abi_1(entry)
    appliance.log.write_text("")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(appliance.folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(appliance.folder / "notify"))
        appliance.start_daemon()
        # Calls are held while the model is compiled, and refused before the device is found.
        eventually(appliance.answers, "the model to serve")
        np.testing.assert_array_equal(scores(appliance), before)
        # The first few are kept for whoever reads them later.
        manager.setblocking(False)
        told = [manager.recv(1 << 16).decode() for _ in range(5)]
    assert any(line.startswith("STATUS=loading kws 1.0.0: compiling ") for line in told), told
    log = appliance.log.read_text
    assert f"compiling kws 1.0.0: compiler {COMPILER_VERSION}," in log()
    eventually(
        lambda: "compiled second 1.0.0 anew in the background (1 of 1)" in log(), "the other"
    )
    eventually(lambda: len(entries(appliance)) == 2, "what is of no use any more to be removed")
    for entry in entries(appliance):
        key = json.loads((entry / ".info.json").read_text())["key"]
        assert (key["compiler_version"], key["abi"]) == (COMPILER_VERSION, ABI)
        parse_image((entry / "program.img").read_bytes())
    assert appliance.edgectl("rollback").returncode == 0
    assert log().count("compiling second 1.0.0: ") == 1, "a roll-back is as quick as before"

    # Nothing is left to do at the next start.
    stop_daemon(appliance)
    appliance.log.write_text("")
    appliance.start_daemon()
    eventually(lambda: "second 1.0.0 serves" in log(), "what served")
    assert "compiling" not in log()


@pytest.fixture
def of_abi_1_gateware(tmp_path: Path) -> Iterator[Appliance]:
    """An appliance whose device has gateware of ABI 1."""
    appliance = Appliance(tmp_path)
    flash = tmp_path / "flash"
    try:
        start_emulator(appliance, flash)
        eventually(appliance.device.exists, "the emulator's factory flash")
        appliance.kill(appliance.emulator)
        appliance.device.unlink()
        role = serialize_firmware(
            FirmwareKind.ROLE, b"of old", shell=EMULATOR_SHELL, abi=1, array=Array(), name="old"
        )
        with flash.open("r+b") as file:
            file.write(role)  # its region is the first
        start_emulator(appliance, flash)
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


def start_emulator(appliance: Appliance, flash: Path) -> None:
    appliance.emulator = appliance.spawn(
        "edged.emulator", "--socket", str(appliance.device), "--flash", str(flash)
    )


def test_a_device_of_abi_1_is_told_apart_and_flashed(
    of_abi_1_gateware: Appliance, kws: Path, tmp_path: Path
) -> None:
    appliance = of_abi_1_gateware

    def status() -> dict[str, str]:
        return dict(json.loads(appliance.edgectl("status", "--json").stdout))

    wanted = (
        f"cannot open device: its gateware has ABI 1, this edged speaks ABI {ABI}; flash the"
        " gateware of this release (edgectl device flash IMAGE), or install the edged that speaks"
        " ABI 1"
    )
    eventually(lambda: status()["problem"] == wanted, "why it is not used")
    assert status()["state"] == "no device"
    with pytest.raises(grpc.RpcError) as refused:
        scores(appliance)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert wanted in refused.value.details()

    image = tmp_path / "role"
    image.write_bytes(
        serialize_firmware(
            FirmwareKind.ROLE, b"new", shell=EMULATOR_SHELL, abi=ABI, array=Array(), name="new"
        )
    )
    flashed = appliance.edgectl("device", "flash", image, "--yes")
    assert flashed.returncode == 0, flashed.stderr
    assert appliance.put(kws).startswith("serving since")
    assert len(scores(appliance)) == 4
