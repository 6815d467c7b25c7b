"""What ``edgectl doctor`` says of troubles that few machines have."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edged.cli._doctor import Verdict, about_cards, about_clock, about_drop_folder
from edged.config import Config, load_config
from edged.discovery import Card, PciAddress, Survey

CARD = Card(
    PciAddress.parse("0000:01:00.0"), Path("/sys/nowhere"), 0x8086, 0x09C4, 0x120000, None, 7, True
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "edged.toml"
    file.write_text(
        f'[state]\ndirectory = "{tmp_path}/state"\n[drop]\ndirectory = "{tmp_path}/drop"\n'
    )
    (tmp_path / "state").mkdir()
    (tmp_path / "drop").mkdir()
    return load_config(file)


def test_cards() -> None:
    assert about_cards(Survey((), False, False, ())).verdict is Verdict.OK
    assert about_cards(Survey((CARD,), True, True, ())).verdict is Verdict.OK
    taken = about_cards(Survey((replace(CARD, driver="dfl-pci"),), True, True, ()))
    assert taken.verdict is Verdict.WARN
    assert taken.text.startswith("0000:01:00.0 (Intel PAC")
    assert taken.text.endswith("driver dfl-pci: another driver has it")
    assert "driverctl set-override 0000:01:00.0 vfio-pci" in taken.cure
    missing = ("cannot give a card to a process: the kernel uses no IOMMU; switch VT-d on",)
    without = about_cards(Survey((CARD,), False, False, missing))
    assert without.verdict is Verdict.WARN
    assert without.text.endswith("the kernel uses no IOMMU")
    assert without.cure == "switch VT-d on"


def test_a_clock_that_is_behind_the_files_is_found(config: Config) -> None:
    future = time.time() + 86400
    assert about_clock(config).verdict is not Verdict.FAIL
    os.utime(config.state.directory, (future, future))
    found = about_clock(config)
    assert found.verdict is Verdict.FAIL
    assert str(config.state.directory) in found.text and "set-ntp" in found.cure


def test_a_drop_folder_whose_files_edged_may_not_read(config: Config) -> None:
    config.drop.directory.chmod(0o0775)
    found = about_drop_folder(config)
    assert found.verdict is Verdict.WARN and "chmod g+s" in found.cure
    config.drop.directory.chmod(0o2775)
    assert about_drop_folder(config).verdict is Verdict.OK
