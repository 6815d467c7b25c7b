"""What is read of a card in sysfs, probed in its registers, and said to be missing."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.discovery import Card, PciAddress, Verdict, probe, read_card, survey
from edged.npu.registers import BAR0_SIZE, MAGIC

ADDRESS = "0000:00:04.0"
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A function's folder, as the kernel shows it, in a sysfs of the test's own."""

    def make(
        *,
        magic: int = MAGIC,
        decodes: bool = True,
        driver: str | None = None,
        group: int | None = 7,
        config_bytes: int = 4096,
        bar_bytes: int = BAR0_SIZE,
    ) -> Path:
        folder = tmp_path / "devices/pci0000:00" / ADDRESS
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x8086\n")
        (folder / "device").write_text("0x09c4\n")
        (folder / "class").write_text("0x120000\n")
        (folder / "enable").write_text("0\n")
        config = bytearray(4096)
        config[4] = 2 if decodes else 0
        # A capability that is not wanted, and behind it the serial number.
        struct.pack_into("<I", config, 0x100, 0x140 << 20 | 2 << 16 | 1)
        struct.pack_into("<IQ", config, 0x140, 1 << 16 | 3, 0xC0FFEE01)
        (folder / "config").write_bytes(config[:config_bytes])
        registers = struct.pack("<I", magic).ljust(bar_bytes, b"\0")
        (folder / "resource0").write_bytes(registers)
        devices = tmp_path / "bus/pci/devices"
        devices.mkdir(parents=True)
        (devices / ADDRESS).symlink_to(folder)
        if driver is not None:
            (folder / "driver").symlink_to(tmp_path / "bus/pci/drivers" / driver)
        if group is not None:
            (folder / "iommu_group").symlink_to(tmp_path / f"kernel/iommu_groups/{group}")
        return folder

    return make


def card_of(folder: Path) -> Card:
    card = read_card(folder)
    assert card is not None
    return card


def test_what_is_read_of_a_card(make_folder: MakeFolder) -> None:
    card = card_of(make_folder(driver="vfio-pci"))
    assert card.address == PciAddress.parse(ADDRESS)
    assert (card.driver, card.iommu_group, card.serial) == ("vfio-pci", 7, "00000000c0ffee01")
    assert card.is_like_ours and card.decodes and not card.is_taken
    assert str(card) == (
        "0000:00:04.0 (Intel PAC with Arria 10 GX, 8086:09c4, serial 00000000c0ffee01)"
    )


def test_without_privilege_there_is_no_serial(make_folder: MakeFolder) -> None:
    assert card_of(make_folder(config_bytes=64)).serial == ""


def test_a_list_of_capabilities_that_goes_in_circles_ends(make_folder: MakeFolder) -> None:
    folder = make_folder()
    config = bytearray((folder / "config").read_bytes())
    struct.pack_into("<I", config, 0x140, 0x100 << 20 | 2 << 16 | 1)
    (folder / "config").write_bytes(config)
    assert card_of(folder).serial == ""


def test_a_card_that_goes_while_it_is_read_is_none(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "class").unlink()
    assert read_card(folder) is None


def test_the_magic_is_probed(make_folder: MakeFolder) -> None:
    assert probe(card_of(make_folder())).verdict is Verdict.OURS


def test_another_design_is_told_by_its_first_register(make_folder: MakeFolder) -> None:
    found = probe(card_of(make_folder(magic=0x12345678)))
    assert found.verdict is Verdict.FOREIGN
    assert found.why == "its first register is 0x12345678, not 0x45474445"


def test_another_design_has_a_small_bar(make_folder: MakeFolder) -> None:
    assert probe(card_of(make_folder(bar_bytes=4096))).verdict is Verdict.FOREIGN


def test_a_card_that_sleeps_is_woken_for_the_probe_only(make_folder: MakeFolder) -> None:
    folder = make_folder(decodes=False)
    assert probe(card_of(folder)).verdict is Verdict.OURS
    assert (folder / "enable").read_text() == "0"


def test_a_card_that_a_driver_has_is_not_touched(make_folder: MakeFolder) -> None:
    folder = make_folder(driver="dfl-pci", magic=0)
    (folder / "resource0").chmod(0)
    found = probe(card_of(folder))
    assert (found.verdict, found.why) == (Verdict.UNKNOWN, "dfl-pci has it")


def test_what_is_missing_for_a_card(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder(group=None)
    found = survey(tmp_path)
    assert [str(card.address) for card in found.cards] == [ADDRESS]
    assert not found.iommu and not found.vfio
    assert "boot with intel_iommu=on" in found.missing[0]
    assert "modprobe vfio-pci" in found.missing[1]
    (tmp_path / "class/iommu/dmar0").mkdir(parents=True)
    (tmp_path / "bus/pci/drivers/vfio-pci").mkdir(parents=True)
    assert survey(tmp_path).missing == (
        "cannot give a card to a process: the IOMMU does not cover its slot",
    )


def test_what_is_missing_for_a_card_that_needs_no_iommu(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    make_folder(group=None)
    missing = survey(tmp_path, needs_iommu=False).missing
    assert "sysctl -w vm.nr_hugepages=64" in missing[0]
    assert "modprobe uio_pci_generic" in missing[1]
    pages = tmp_path / "kernel/mm/hugepages/hugepages-2048kB"
    pages.mkdir(parents=True)
    (pages / "nr_hugepages").write_text("64\n")
    (tmp_path / "bus/pci/drivers/uio_pci_generic").mkdir(parents=True)
    assert survey(tmp_path, needs_iommu=False).missing == ()


def test_nothing_is_missing_without_a_card(tmp_path: Path) -> None:
    assert survey(tmp_path).cards == () and survey(tmp_path).missing == ()
