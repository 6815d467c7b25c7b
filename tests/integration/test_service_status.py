"""What `systemctl status edged` shows, as a service manager is told it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from integration.appliance import Appliance
from patience import PATIENCE


def test_the_status_of_the_service_says_what_is_modelled(
    tmp_path: Path, kws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance = Appliance(tmp_path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(PATIENCE)
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            monkeypatch.setenv("WATCHDOG_USEC", "1000000")
            appliance.start_emulator()
            appliance.start_daemon()
            appliance.put(kws)
            serving = re.compile(
                r"STATUS=serving kws 1\.0\.0 on .*emulated.*, \d+ requests/min,"
                r" [\d.]+ °C \(modelled\)"
            )
            while not serving.fullmatch(manager.recv(1 << 16).decode()):
                pass
    finally:
        appliance.close()
