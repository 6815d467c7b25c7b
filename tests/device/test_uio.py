"""A card without an IOMMU: what the kernel is told, in plain files, and which memory is taken."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from edged.device import _hugepages
from edged.device.uio import UioTransport
from edged.errors import DeviceError, DeviceLostError, LimitError
from edged.npu.registers import BAR0_SIZE, Reg

PAGE = _hugepages.PAGE
MASTER, NO_INTX = 4, 4


@pytest.fixture
def function(tmp_path: Path) -> Path:
    """A function like the kernel shows them, and what stands for its node in /dev."""
    folder = tmp_path / "0000:01:00.0"
    (folder / "uio" / "uio3").mkdir(parents=True)
    config = bytearray(256)
    config[0x3D] = 1
    config[0x05] = NO_INTX
    (folder / "config").write_bytes(config)
    (folder / "resource0").write_bytes(bytes(BAR0_SIZE))
    (folder / "reset").touch()
    os.mkfifo(tmp_path / "uio3")
    return folder


@pytest.fixture
def transport(function: Path) -> Iterator[UioTransport]:
    transport = UioTransport(function, function.parent)
    yield transport
    transport.close()


def test_it_is_reset_first_and_may_write_to_memory_only_while_it_is_open(function: Path) -> None:
    transport = UioTransport(function, function.parent)
    config = function / "config"
    assert (function / "reset").read_text() == "1"
    assert config.read_bytes()[4] & MASTER
    assert not config.read_bytes()[5] & NO_INTX
    transport.close()
    assert not config.read_bytes()[4] & MASTER
    assert config.read_bytes()[5] & NO_INTX
    with pytest.raises(DeviceLostError, match="it was closed"):
        transport.region_read(Reg.MAGIC)


def test_registers_are_the_cards(function: Path, transport: UioTransport) -> None:
    transport.region_write(Reg.SCRATCH, 0x1122_3344)
    transport.region_write(0x1000, 0x1122_3344_5566_7788, 8)
    assert transport.region_read(0x1000, 8) == 0x1122_3344_5566_7788
    registers = (function / "resource0").read_bytes()
    assert registers[Reg.SCRATCH :][:4] == bytes.fromhex("44332211")
    assert transport.config_read(0x3D, 1) == 1


def test_an_interrupt_is_acknowledged_passed_on_and_let_through_again(
    function: Path, transport: UioTransport, wait_until: Callable[..., None]
) -> None:
    config = function / "config"
    told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        transport.set_interrupt(1, told)
        transport.config_write(0x05, NO_INTX, 1)  # as the kernel does with each
        with (function.parent / "uio3").open("wb", buffering=0) as kernel:
            kernel.write((1).to_bytes(4, "little"))
        assert select.select([told], [], [], PATIENCE)[0], "nobody is told"
        assert transport.region_read(Reg.INTERRUPT_ACK) == 0b111
        assert not config.read_bytes()[5] & NO_INTX
    finally:
        os.close(told)


def test_memory_is_what_it_gives(transport: UioTransport) -> None:
    with pytest.raises(DeviceError, match="only what it was given"):
        transport.dma_map(1 << 32, 0, 0, 4096)
    with pytest.raises(LimitError, match=r"2097152 MiB .* 1048576 huge pages .*vm\.nr_hugepages"):
        transport.dma_allocate(1 << 32, 1 << 41)


def test_what_is_not_bound_to_the_driver_is_not_opened(function: Path) -> None:
    (function / "uio" / "uio3").rmdir()
    with pytest.raises(DeviceError, match="not bound to uio_pci_generic"):
        UioTransport(function, function.parent)


@pytest.mark.parametrize(
    ("places", "count", "found"),
    [
        ([7, 6, 5, 4], 3, [4, 5, 6]),
        ([1, 9, 2, 3, 8, 0, 20], 2, [8, 9]),
        ([5, 3, 4, 9], 3, [3, 4, 5]),
    ],
)
def test_of_free_pages_the_smallest_piece_that_is_long_enough_is_taken(
    places: list[int], count: int, found: list[int]
) -> None:
    run = _hugepages._run([place * PAGE for place in places], count)
    assert [places[index] for index in run] == found


def test_pages_that_do_not_follow_each_other_are_too_few() -> None:
    with pytest.raises(LimitError, match="2 huge pages in one piece, and the longest has 1"):
        _hugepages._run([0, 2 * PAGE, 4 * PAGE], 2)
