"""The cards that are there, kept up to date by what the kernel says of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyudev

from edged.discovery._card import Card, PciAddress, read_card

__all__ = ["Watch"]

_LOG = logging.getLogger(__name__)
_BUFFER_BYTES: Final = 1 << 20


class Watch:
    """Follows the PCI functions of this machine, on the running loop.

    The monitor listens before the first look, so nothing falls between the two. What it says is a
    reason to look again, so that what was missed is found with the next event; only that a function
    was removed is taken from it, since another may stand in its place by the time of the look.

    Args:
        on_change: called with all functions, and with the addresses of those that went since the
            call before; from the loop.
    """

    def __init__(
        self, on_change: Callable[[tuple[Card, ...], frozenset[PciAddress]], None]
    ) -> None:
        self.cards: tuple[Card, ...] = ()
        self._on_change = on_change
        self._context = pyudev.Context()
        # The kernel's own events: udev's come later, or never where there is no udevd.
        self._monitor = pyudev.Monitor.from_netlink(self._context, source="kernel")
        self._monitor.filter_by("pci")

    def start(self) -> None:
        """Look, and go on looking. The first call of *on_change* comes before this returns."""
        self._monitor.start()
        try:
            self._monitor.set_receive_buffer_size(_BUFFER_BYTES)
        except OSError:
            _LOG.debug("the monitor keeps its buffer of the usual size")
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._drain)
        self._look(frozenset())

    def stop(self) -> None:
        """Look no more."""
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())

    def _drain(self) -> None:
        """Take every event that waits, then look once."""
        removed = set()
        try:
            while (device := self._monitor.poll(0)) is not None:
                if device.action == "remove":
                    removed.add(PciAddress.parse(device.sys_name))
        except (OSError, ValueError) as error:
            # Events were lost (ENOBUFS), or one was odd: the look finds what there is.
            _LOG.warning("missed an event of the PCI bus: %s", error)
        self._look(frozenset(removed))

    def _look(self, removed: frozenset[PciAddress]) -> None:
        devices = self._context.list_devices(subsystem="pci")
        found = (read_card(Path(device.sys_path)) for device in devices)
        cards = tuple(sorted((card for card in found if card), key=lambda card: card.address))
        gone = removed | {card.address for card in self.cards} - {card.address for card in cards}
        if gone or cards != self.cards:
            self.cards = cards
            self._on_change(cards, gone)
