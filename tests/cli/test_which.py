"""``edgectl device which``, by which systemd starts the emulator or does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edged.cli.which import DeviceKind, device_for
from edged.config import DeviceUse
from edged.discovery import Card, PciAddress

CARD = Card(PciAddress.parse("0000:01:00.0"), Path("/"), 0x8086, 0x09C4, 0x120000, None, 7, True)


@pytest.mark.parametrize(
    ("use", "cards", "wanted"),
    [
        (DeviceUse.AUTO, [], DeviceKind.EMULATOR),
        (DeviceUse.AUTO, [CARD], DeviceKind.CARD),
        (DeviceUse.EMULATOR, [CARD], DeviceKind.EMULATOR),
        (DeviceUse.CARD, [], DeviceKind.CARD),
    ],
)
def test_with_a_card_the_emulator_has_to_be_asked_for(use, cards, wanted) -> None:
    kind, why = device_for(use, cards)
    assert kind is wanted
    assert ("0000:01:00.0 (Intel PAC" in why) == (use is DeviceUse.AUTO and bool(cards))


def test_its_exit_status_is_for_scripts(tmp_path: Path) -> None:
    config = tmp_path / "edged.toml"
    config.write_text('[device]\nuse = "card"\n')
    for words, status in (((), 0), (("--is", "card"), 0), (("--is", "emulator"), 1)):
        done = subprocess.run(
            [sys.executable, "-m", "edged.cli", "device", "which", "--config", config, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, "card: device.use says so\n")
    done = subprocess.run(
        [sys.executable, "-m", "edged.cli", "device", "which", "--config", config, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"device": "card", "why": "device.use says so"}


def test_systemd_asks_by_the_exit_status_of_less(tmp_path: Path) -> None:
    config = tmp_path / "edged.toml"
    for text, emulator, card in (
        ('[device]\nuse = "card"\n', 1, 0),
        ('[device]\nuse = "emulator"\n', 0, 1),
        ('[device]\nuse = "no"\n', 78, 78),
    ):
        config.write_text(text)
        for wanted, status in (("emulator", emulator), ("card", card)):
            command = [sys.executable, "-m", "edged.cli.which", wanted, "--config", config]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == status, done
            assert ("device.use" in done.stderr) == (status == 78)
    program = "import sys, edged.cli.which; print(*sys.modules)"
    known = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"numpy", "typer", "rich", "asyncio", "pyudev"} & set(known.stdout.split())
