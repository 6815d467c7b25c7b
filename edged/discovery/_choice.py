"""Which of the cards is used: from what was found and what is wished to what is done."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edged.discovery._card import Card, PciAddress

__all__ = ["Choice", "Wanted", "choose"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says; with neither, the one card that there is."""

    address: PciAddress | None = None
    serial: str = ""

    @property
    def is_named(self) -> bool:
        return self.address is not None or bool(self.serial)

    def __str__(self) -> str:
        if self.address is not None:
            return f"device.address {self.address}"
        return f"device.serial {self.serial}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to use.

    Attributes:
        problem: why there is none, in a sentence; empty when there is one.
    """

    card: Card | None
    problem: str = ""


def choose(cards: Sequence[Card], wanted: Wanted, foreign: Collection[PciAddress] = ()) -> Choice:
    """One card, or why none.

    Args:
        cards: all PCI functions, or those that are like ours.
        foreign: where other designs were found behind ids like ours.
    """
    ours = [card for card in cards if card.is_like_ours and card.address not in foreign]
    if wanted.is_named:
        return _named(cards, ours, wanted, foreign)
    free = [card for card in ours if not card.is_taken]
    if len(free) == 1:
        return Choice(free[0])
    if free:
        names = ", ".join(map(str, free))
        by_serial = " or device.serial" if any(card.serial for card in free) else ""
        return Choice(
            None,
            f"cannot choose a card: there are {len(free)}: {names}; set device.address{by_serial}"
            " in the configuration, and run one edged for each",
        )
    if ours:
        taken = ", ".join(f"{card} by {card.driver}" for card in ours)
        return Choice(
            None,
            f"cannot use a card that another driver has: {taken}; unbind it from that, or name it"
            " in device.address to have edged take it",
        )
    return Choice(None, "cannot find a card: no PCI device is like one of ours")


def _named(
    cards: Sequence[Card], ours: Sequence[Card], wanted: Wanted, foreign: Collection[PciAddress]
) -> Choice:
    if wanted.address is not None:
        found = [card for card in cards if card.address == wanted.address]
    else:
        found = [card for card in cards if card.serial.lower() == wanted.serial.lower()]
    found = [card for card in found if not wanted.serial or card.serial == wanted.serial.lower()]
    if not found:
        others = f"; there are {', '.join(map(str, ours))}" if ours else ", nor any other of ours"
        return Choice(None, f"cannot find the card of {wanted}: no such card is there{others}")
    if found[0].address in foreign:
        return Choice(
            None, f"cannot use {found[0]}: it has another design than ours; flash our gateware"
        )
    return Choice(found[0])
