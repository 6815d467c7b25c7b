"""Finds the card, takes it, serves it, and begins anew when it went."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edged._vfio_user_server import Server
from edged.card._claim import Claim
from edged.card._places import Places
from edged.card._shared import SharedCard
from edged.card._state import Condition, State, write_state
from edged.device import Transport, uio, vfio
from edged.discovery import (
    UIO_DRIVER,
    VFIO_DRIVER,
    Card,
    PciAddress,
    Verdict,
    Wanted,
    Watch,
    choose,
    probe,
)
from edged.errors import DeviceError, EdgedError, IncompatibleError
from edged.notices import Notice, about
from edged.npu.registers import MAGIC, Reg

__all__ = ["Keeper"]

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 2.0
_SOCKET_MODE: Final = 0o660
_NO_ANSWER: Final = 0xFFFF_FFFF
"""What is read where the link is down: no other design, and the driver says it better."""


class Keeper:
    """Keeps one card served while there is one.

    Args:
        wanted: which of several.
        needs_iommu: whether a card without one is left alone.
        open_card: opens what was claimed.
        open_bare: opens one that no IOMMU is in use for.
        on_state: told what is written to the state file as well.
    """

    def __init__(
        self,
        wanted: Wanted,
        places: Places,
        open_card: Callable[[Path], Transport] = vfio.VfioTransport,
        on_state: Callable[[State], None] = lambda _: None,
        *,
        needs_iommu: bool = True,
        open_bare: Callable[[Path], Transport] = uio.UioTransport,
    ) -> None:
        self._wanted = wanted
        self._needs_iommu = needs_iommu
        self._open_bare = open_bare
        self._places = places
        self._open_card = open_card
        self._on_state = on_state
        self._claim = Claim(places.claim)
        self._cards: tuple[Card, ...] = ()
        self._foreign: set[PciAddress] = set()
        self._probed: set[PciAddress] = set()
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()
        self._used: PciAddress | None = None
        self._said: State | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop*; then the card is as it was before."""
        watch = Watch(self._on_cards)
        watch.start()
        try:
            while not stop.is_set():
                self._changed.clear()
                retry = await self._once(stop)
                await _first(stop, self._changed, seconds=_RETRY_SECONDS if retry else None)
        finally:
            watch.stop()
            await asyncio.to_thread(self._claim.give_back)
            self._say(State(Condition.STOPPED))

    async def _once(self, stop: asyncio.Event) -> bool:
        """Use the card that there is, while it is; whether to try again with nothing changed."""
        for card in self._cards:
            if card.is_like_ours and card.address not in self._probed:
                await asyncio.to_thread(self._look_at, card)
        choice = choose(self._cards, self._wanted, self._foreign)
        if choice.card is None:
            is_absent = not self._wanted.is_named and not any(
                card.is_like_ours and card.address not in self._foreign for card in self._cards
            )
            await asyncio.to_thread(self._claim.give_back)
            condition = Condition.NONE if is_absent else Condition.PROBLEM
            self._say(State(condition, problem=choice.problem))
            return False
        card = choice.card
        if self._said is None or (self._said.condition, self._said.card) != (
            Condition.PROBLEM,
            str(card),
        ):  # else it is the same once more, and not to be said every two seconds
            self._say(State(Condition.OPENING, str(card)))
        self._used = card.address
        self._gone.clear()
        try:
            transport = await asyncio.to_thread(self._opened, card)
        except IncompatibleError as error:
            self._foreign.add(card.address)
            _LOG.warning("leaving %s alone: %s", card, error)
            await asyncio.to_thread(self._claim.give_back)
            self._changed.set()
            return False
        except (EdgedError, OSError) as error:
            self._say(State(Condition.PROBLEM, str(card), str(error)))
            return True
        why = await self._serve(card, transport, stop)
        if not stop.is_set():
            self._say(State(Condition.PROBLEM, str(card), f"cannot reach card {card}: {why}"))
        return True

    def _look_at(self, card: Card) -> None:
        """Whether a card that nobody uses is ours; said once."""
        self._probed.add(card.address)
        found = probe(card)
        if found.verdict is Verdict.FOREIGN:
            self._foreign.add(card.address)
            _LOG.info("leaving %s alone: it is none of ours: %s", card, found.why)
        elif card.is_taken:
            _LOG.info("leaving %s alone, unless it is named: %s", card, found.why)
        else:
            _LOG.info("found %s: %s", card, found.why)

    def _opened(self, card: Card) -> Transport:
        bare = card.iommu_group is None
        if bare and self._needs_iommu:
            raise DeviceError(
                f"cannot use card {card}: no IOMMU is in use for it, so that it could write"
                " anywhere in memory; switch VT-d or AMD-Vi on in the firmware, and boot with"
                ' intel_iommu=on; or set device.iommu to "optional" (docs/cards.md)'
            )
        self._claim.take(card, UIO_DRIVER if bare else VFIO_DRIVER)
        transport = (self._open_bare if bare else self._open_card)(card.folder)
        try:
            magic = transport.region_read(Reg.MAGIC)
            if magic not in (MAGIC, _NO_ANSWER):
                raise IncompatibleError(
                    f"cannot use card {card}: its first register is {magic:#010x},"
                    f" wanted {MAGIC:#010x}"
                )
        except BaseException:
            transport.close()
            raise
        return transport

    async def _serve(self, card: Card, transport: Transport, stop: asyncio.Event) -> str:
        """Until it goes, or is to; why."""
        loop = asyncio.get_running_loop()
        hung_up = asyncio.Event()
        try:
            shared = SharedCard(transport)
            server = Server(self._places.socket, shared, _SOCKET_MODE)
        except (EdgedError, OSError) as error:
            await asyncio.to_thread(transport.close)
            return str(error)
        thread = threading.Thread(target=server.serve, name="card")
        thread.start()
        # Only the hang-up is of interest here: what can be read belongs to the transport.
        hangup = select.epoll()
        hangup.register(transport.fileno(), select.EPOLLRDHUP | select.EPOLLHUP)
        loop.add_reader(hangup.fileno(), hung_up.set)
        try:
            bare = ", without an IOMMU" if card.iommu_group is None else ""
            if bare:
                _LOG.warning(
                    "%s is used without an IOMMU: it, and whoever flashed it, can read and write"
                    " all memory of this machine",
                    card,
                    extra=about(Notice.NO_IOMMU, device=card),
                )
            self._say(State(Condition.SERVED, f"{card}{bare}"))
            await _first(stop, hung_up, self._gone)
        finally:
            loop.remove_reader(hangup.fileno())
            hangup.close()
            server.stop()
            # The kernel waits with a removal until nobody has the card any more.
            await asyncio.to_thread(thread.join)
            await asyncio.to_thread(transport.close)
            self._used = None
        return "edged-card is stopping" if stop.is_set() else "it is gone"

    def _on_cards(self, cards: tuple[Card, ...], gone: frozenset[PciAddress]) -> None:
        self._foreign -= gone
        self._probed -= gone
        if self._used in gone:
            self._gone.set()
        self._cards = cards
        self._changed.set()

    def _say(self, state: State) -> None:
        if state == self._said:
            return
        self._said = state
        if state.problem:
            _LOG.warning("%s", state.problem)
        elif state.card:
            _LOG.info("%s: %s", state.card, state.condition)
        try:
            write_state(self._places.state, state)
        except OSError as error:
            _LOG.error("cannot write %s: %s", self._places.state, error.strerror)
        self._on_state(state)


async def _first(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait for one of them, or for so long."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
