"""A card is bound to vfio-pci and given back as it was, also by a later run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edged.card import _claim
from edged.card._claim import Claim
from edged.discovery import KNOWN, UIO_DRIVER, VFIO_DRIVER, Card, read_card
from edged.errors import DeviceError

ADDRESS = "0000:00:04.0"
RULES = Path(__file__).parent.parent.parent / "systemd" / "60-edged.rules"


class Kernel:
    """One function, and what Linux does when a file of its in sysfs is written."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "devices/pci0000:00" / ADDRESS
        self.drivers = root / "bus/pci/drivers"
        self.folder.mkdir(parents=True)
        for name, content in (("vendor", "0x8086"), ("device", "0x09c4"), ("class", "0x120000")):
            (self.folder / name).write_text(content)
        (self.folder / "config").write_bytes(bytes(64))
        (self.folder / "driver_override").write_text("(null)\n")
        for driver in (VFIO_DRIVER, UIO_DRIVER):
            (self.drivers / driver).mkdir(parents=True)
        self.refused = ""

    def write(self, file: Path, value: str) -> None:
        if file.name == self.refused:
            error = PermissionError(1, "Operation not permitted")
            error.filename = str(file)
            raise error
        match file.name:
            case "driver_override":
                file.write_text("(null)\n" if value == "\n" else f"{value}\n")
            case "unbind":
                assert value == ADDRESS and file.parent.is_symlink()
                file.parent.unlink()
            case "drivers_probe":
                override = (self.folder / "driver_override").read_text().strip()
                self.bind("dfl-pci" if override == "(null)" else override)

    def bind(self, driver: str) -> None:
        (self.folder / "driver").symlink_to(self.drivers / driver)

    def card(self) -> Card:
        card = read_card(self.folder)
        assert card is not None
        return card

    def state(self) -> tuple[str | None, str]:
        return self.card().driver, (self.folder / "driver_override").read_text().strip()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path / "sys")
    monkeypatch.setattr(_claim, "_set", kernel.write)
    return kernel


@pytest.mark.parametrize("driver", [VFIO_DRIVER, UIO_DRIVER])
@pytest.mark.parametrize("native", [None, "dfl-pci"])
def test_a_card_is_given_back_as_it_was(
    kernel: Kernel, tmp_path: Path, native: str | None, driver: str
) -> None:
    if native is not None:
        kernel.bind(native)
    claim = Claim(tmp_path / "claim", kernel.drivers)
    claim.take(kernel.card(), driver)
    assert kernel.state() == (driver, driver)
    claim.give_back()
    assert kernel.state() == (native, "(null)")
    claim.give_back()  # what was given back is not touched again
    assert kernel.state() == (native, "(null)")


def test_a_later_run_gives_back_what_a_killed_one_took(kernel: Kernel, tmp_path: Path) -> None:
    kernel.bind("dfl-pci")
    Claim(tmp_path / "claim", kernel.drivers).take(kernel.card())
    later = Claim(tmp_path / "claim", kernel.drivers)
    later.take(kernel.card())
    assert kernel.state() == ("vfio-pci", "vfio-pci")
    later.give_back()
    assert kernel.state() == ("dfl-pci", "(null)")


def test_an_iommu_that_was_switched_on_is_used_by_the_next_run(
    kernel: Kernel, tmp_path: Path
) -> None:
    kernel.bind("dfl-pci")
    Claim(tmp_path / "claim", kernel.drivers).take(kernel.card(), UIO_DRIVER)
    later = Claim(tmp_path / "claim", kernel.drivers)
    later.take(kernel.card())
    assert kernel.state() == ("vfio-pci", "vfio-pci")
    later.give_back()
    assert kernel.state() == ("dfl-pci", "(null)")


def test_another_card_in_its_place_is_left_alone(kernel: Kernel, tmp_path: Path) -> None:
    Claim(tmp_path / "claim", kernel.drivers).take(kernel.card())
    (kernel.folder / "device").write_text("0x0b30")
    Claim(tmp_path / "claim", kernel.drivers).give_back()
    assert kernel.state() == ("vfio-pci", "vfio-pci")
    assert not (tmp_path / "claim").exists()


def test_what_an_administrator_bound_stays_so(kernel: Kernel, tmp_path: Path) -> None:
    kernel.bind("vfio-pci")
    (kernel.folder / "driver_override").write_text("vfio-pci\n")
    claim = Claim(tmp_path / "claim", kernel.drivers)
    claim.take(kernel.card())
    claim.give_back()
    assert kernel.state() == ("vfio-pci", "vfio-pci")


def test_a_refusal_half_way_is_undone(kernel: Kernel, tmp_path: Path) -> None:
    kernel.refused = "unbind"
    kernel.bind("dfl-pci")
    with pytest.raises(DeviceError, match=r"cannot take card .*unbind: Operation not permitted"):
        Claim(tmp_path / "claim", kernel.drivers).take(kernel.card())
    assert kernel.state()[1] == "(null)"


def test_a_record_that_cannot_be_read_is_set_aside(
    kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "claim").write_text("{")
    Claim(tmp_path / "claim", kernel.drivers).give_back()
    assert (tmp_path / "claim.unreadable").exists()
    assert "cannot read" in caplog.text


def test_udev_starts_edged_card_for_the_cards_that_are_known() -> None:
    found = set()
    for line in RULES.read_text().splitlines():
        if match := re.match(r'ATTR{vendor}=="(0x\w+)", ATTR{device}=="([^"]+)"', line):
            vendor, devices = match.groups()
            found |= {(int(vendor, 16), int(device, 16)) for device in devices.split("|")}
    assert found == set(KNOWN)
