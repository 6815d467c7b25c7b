"""``edgectl device flash`` on a whole appliance, and a power cut in the middle of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.appliance import Appliance, eventually, keywords

from edged import wire


def start_emulator(appliance: Appliance) -> None:
    flash = appliance.folder / "flash"
    # At the gateware's pace it takes time to erase: so something can happen meanwhile.
    appliance.emulator = appliance.spawn(
        "edged.emulator",
        *("--socket", str(appliance.device), "--flash", str(flash), "--pace", "modelled"),
    )


@pytest.fixture
def flashed(tmp_path: Path) -> Iterator[Appliance]:
    appliance = Appliance(tmp_path)
    try:
        start_emulator(appliance)
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


def report(appliance: Appliance) -> Any:
    return json.loads(appliance.edgectl("device", "--json").stdout)


def answers(appliance: Appliance) -> bool:
    x, _ = keywords()
    try:
        appliance.predict({"input_1": wire.from_array(x[:1])}, wait=False)
    except grpc.RpcError as error:
        code = error.code()
    else:
        return True
    assert code is grpc.StatusCode.UNAVAILABLE
    return False


def first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def image(path: Path, *words: str | Path) -> Path:
    command = [sys.executable, "-m", "edged.cli", "device", "image", path, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def test_a_card_is_flashed_and_a_power_cut_meanwhile_survived(
    flashed: Appliance, kws: Path, tmp_path: Path
) -> None:
    assert flashed.put(kws).startswith("serving since")
    role = image(tmp_path / "role", "--name", "second", "--array", "8x8x2")

    # Not while a model serves, not without a word, not for another card, not a golden one so.
    for words, status, said in (
        ((role, "--yes"), 65, "is serving; --force interrupts it"),
        ((role,), 65, "there is no terminal; say --yes"),
        ((role, "--yes", "--golden", "--force"), 65, "leave --golden out"),
        (
            (image(tmp_path / "other", "--shell", "00" * 8), "--yes", "--force"),
            74,
            "is for shell 0000000000000000, the card has",
        ),
        ((kws, "--yes"), 65, "is this a firmware image?"),
    ):
        done = flashed.edgectl("device", "flash", *words)
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    eventually(lambda: answers(flashed), "an answer, since nothing was changed")

    # Forced: it is flashed, and the model serves again, compiled for the new array.
    done = flashed.edgectl("device", "flash", role, "--yes", "--force", "--json")
    assert done.returncode == 0, done.stderr
    gateware = json.loads(done.stdout)["gateware"]
    eventually(lambda: answers(flashed), "an answer by the new role")
    shown = report(flashed)
    assert f"gateware {gateware}" in shown["identity"] and "array 8x8x2" in shown["identity"]
    assert f"role {gateware}, golden" in shown["flash"]

    # The power is cut in the middle: the golden image boots, and says what to do.
    large = tmp_path / "payload"
    large.write_bytes(bytes(4 << 20))
    slow = image(tmp_path / "slow", "--payload", large)
    flashing = flashed.spawn(
        *("edged.cli", "device", "flash", str(slow), "--yes", "--force"),
        *("--socket", str(flashed.control)),
    )
    eventually(lambda: first_bytes(flashed.folder / "flash") == b"\xff" * 4, "the erase")
    flashed.kill(flashed.emulator)
    assert flashing.wait(60) == 75
    start_emulator(flashed)
    eventually(lambda: report(flashed)["state"] == "GOLDEN", "the golden image")
    assert "role none" in report(flashed)["flash"]
    eventually(lambda: "edgectl device flash" in report(flashed)["problem"], "what to do")
    assert not answers(flashed)

    # Nothing serves now, so no force is needed.
    done = flashed.edgectl("device", "flash", role, "--yes")
    assert done.returncode == 0, done.stderr
    assert "it runs" in done.stdout
    eventually(lambda: answers(flashed), "an answer by the role that was flashed again")
    eventually(lambda: report(flashed)["state"] in ("READY", "RUNNING"), "the next look at it")
