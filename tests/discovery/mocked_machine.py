"""Run under umockdev-wrapper: a machine whose PCI bus is told on standard input what to have.

A line is JSON: ``["add", ADDRESS, VENDOR, DEVICE, CLASS, DRIVER]``, or ``["remove", ADDRESS]``, or
``["replace", ADDRESS]``, which is a removal and a return in one. What the watch says of it goes to
standard output as JSON: ``[[address, …], [address that went, …]]``.

With ``SOCKET EMULATOR`` as arguments, a keeper hands out what it finds, and what it opens in the
stead of a card is the emulator. Its states go to standard output as JSON: ``[condition, card,
problem]``. With ``required`` or ``optional`` as a third, the machine has no IOMMU.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
from pathlib import Path

from edged.card import Keeper, Places, State
from edged.device import vfio_user
from edged.discovery import Card, PciAddress, Wanted, Watch


class Bus:
    """umockdev's test bed, by its C interface."""

    def __init__(self, *, iommu: bool) -> None:
        self._iommu = iommu
        self._library = ctypes.CDLL("libumockdev.so.0")
        self._library.umockdev_testbed_new.restype = ctypes.c_void_p
        self._bed = ctypes.c_void_p(self._library.umockdev_testbed_new())

    def add(self, address: str, vendor: int, device: int, pci_class: int, driver: str = "") -> None:
        config = bytearray(64)
        config[4] = 2
        description = (
            f"P: /devices/pci0000:00/{address}\nE: SUBSYSTEM=pci\nE: PCI_SLOT_NAME={address}\n"
            f"A: vendor={vendor:#06x}\\n\nA: device={device:#06x}\\n\n"
            f"A: class={pci_class:#08x}\\n\n"
            + ("L: iommu_group=../../../kernel/iommu_groups/7\n" if self._iommu else "")
            + (f"L: driver=../../../bus/pci/drivers/{driver}\n" if driver else "")
            + f"H: config={config.hex()}\n\n"
        )
        text = ctypes.c_char_p(description.encode())
        assert self._library.umockdev_testbed_add_from_string(self._bed, text, None)

    def tell(self, address: str, action: str) -> None:
        path = ctypes.c_char_p(_path(address))
        self._library.umockdev_testbed_uevent(self._bed, path, ctypes.c_char_p(action.encode()))

    def remove(self, address: str) -> None:
        self._library.umockdev_testbed_remove_device(self._bed, ctypes.c_char_p(_path(address)))


def _path(address: str) -> bytes:
    return f"/sys/devices/pci0000:00/{address}".encode()


def _say(said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def _say_cards(cards: tuple[Card, ...], gone: frozenset[PciAddress]) -> None:
    _say([[str(card.address) for card in cards], sorted(map(str, gone))])


def _say_state(state: State) -> None:
    _say([state.condition, state.card, state.problem])


async def _watch(stop: asyncio.Event) -> None:
    watch = Watch(_say_cards)
    watch.start()
    await stop.wait()
    watch.stop()


async def _keep(stop: asyncio.Event, sock: Path, emulator: Path, iommu: str) -> None:
    def opened(_: Path) -> vfio_user.VfioUserTransport:
        return vfio_user.VfioUserTransport(vfio_user.connect(emulator))

    places, required = Places.beside(sock), iommu != "optional"
    await Keeper(Wanted(), places, opened, _say_state, needs_iommu=required, open_bare=opened).run(
        stop
    )


async def main() -> None:
    sock, emulator, iommu, *_ = [*sys.argv[1:], "", "", ""]
    bus = Bus(iommu=not iommu)
    bus.add("0000:00:03.0", 0x1AF4, 0x1000, 0x020000)  # another device, there from the beginning
    stop = asyncio.Event()
    work = _keep(stop, Path(sock), Path(emulator), iommu) if sock else _watch(stop)
    task = asyncio.create_task(work)
    commands = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(commands)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await commands.readline():
        match json.loads(line):
            case ["add", address, *ids]:
                bus.add(address, *ids)
                bus.tell(address, "add")
            case ["remove", address]:
                bus.tell(address, "remove")
                bus.remove(address)
            case ["replace", address]:
                bus.tell(address, "remove")
                bus.tell(address, "add")
    stop.set()
    await task


asyncio.run(main())
