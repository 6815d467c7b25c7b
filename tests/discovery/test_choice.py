"""Which card is chosen, and what is said where none can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edged.discovery import Card, Choice, PciAddress, Wanted, choose

ONE = Card(
    PciAddress.parse("0000:01:00.0"),
    Path("/sys/devices/pci0000:00/0000:01:00.0"),
    0x8086,
    0x09C4,
    0x120000,
    None,
    3,
    True,
    serial="00000000c0ffee01",
)
TWO = replace(ONE, address=PciAddress.parse("02:00.0"), serial="00000000c0ffee02")
NIC = replace(ONE, address=PciAddress.parse("03:00.0"), device=0x10D3, pci_class=0x020000)
TAKEN = replace(ONE, driver="dfl-pci")


def test_the_only_one_is_chosen() -> None:
    assert choose([NIC, ONE], Wanted()) == Choice(ONE)
    assert choose([NIC, replace(ONE, driver="vfio-pci")], Wanted()).card is not None


def test_several_are_listed_with_what_to_set() -> None:
    choice = choose([ONE, TWO, NIC], Wanted())
    assert choice.card is None
    assert choice.problem == (
        "cannot choose a card: there are 2:"
        " 0000:01:00.0 (Intel PAC with Arria 10 GX, 8086:09c4, serial 00000000c0ffee01),"
        " 0000:02:00.0 (Intel PAC with Arria 10 GX, 8086:09c4, serial 00000000c0ffee02);"
        " set device.address or device.serial in the configuration, and run one edged for each"
    )


def test_one_of_several_by_address_or_serial() -> None:
    assert choose([ONE, TWO], Wanted(TWO.address)) == Choice(TWO)
    assert choose([ONE, TWO], Wanted(serial="00000000C0FFEE01")) == Choice(ONE)
    assert choose([ONE, TWO], Wanted(ONE.address, TWO.serial)).card is None
    missing = choose([ONE], Wanted(TWO.address))
    assert missing.problem.startswith("cannot find the card of device.address 0000:02:00.0")
    assert "0000:01:00.0" in missing.problem


def test_a_card_of_another_driver_is_left_alone_unless_it_is_named() -> None:
    choice = choose([TAKEN], Wanted())
    assert choice.card is None and "by dfl-pci; unbind it" in choice.problem
    assert choose([TAKEN], Wanted(TAKEN.address)) == Choice(TAKEN)
    assert choose([TAKEN, TWO], Wanted()) == Choice(TWO)


def test_other_designs_and_other_classes_are_not_chosen() -> None:
    assert choose([ONE], Wanted(), foreign={ONE.address}).card is None
    assert "another design" in choose([ONE], Wanted(ONE.address), {ONE.address}).problem
    memory_controller = replace(ONE, pci_class=0x058000)
    assert choose([memory_controller], Wanted()).problem.startswith("cannot find a card")


@pytest.mark.parametrize("text", ["", "01:00", "0000:01:00.8", "0000:01:20.0", "zz:00.0"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no PCI address \(try '0000:01:00.0'"):
        PciAddress.parse(text)


def test_an_address_prints_as_lspci_does() -> None:
    assert str(PciAddress.parse("A1:1f.7")) == "0000:a1:1f.7"
    assert str(PciAddress.parse("10000:e1:00.0")) == "10000:e1:00.0"
