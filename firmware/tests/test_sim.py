"""``python -m firmware.sim`` as a process: it serves a device, and ends when it is told to."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edged.device import Device, vfio_user
from edged.npu.registers import State

BUILD_SECONDS = 500

pytestmark = pytest.mark.skipif(not shutil.which("verilator"), reason="needs Verilator")


@pytest.mark.timeout(BUILD_SECONDS + 100)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_comes(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "npu.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "firmware.sim", "--socket", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    with contextlib.closing(process.stdout) as said:
        assert said.readline().startswith(f"ready: {path}: array 8x8x1, simulated RTL")
        device = Device.open(vfio_user.VfioUserTransport(vfio_user.connect(path)))
        assert str(device.identity.target.array) == "8x8x1"
        assert device.state() is State.CLEARED
        assert device.probe() is not None
        device.close()
        process.send_signal(number)
        assert process.wait(BUILD_SECONDS) == 0
    assert not path.exists()


def test_what_it_cannot_build_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "firmware.sim", "--socket", str(tmp_path / "npu.sock")]
    done = subprocess.run(
        [*command, "--array", "5x8x1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert "cannot build array 5x8x1" in done.stderr
