"""The daemon's way to its device: the card where there is one, or else the emulator."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from edged.card._places import Places
from edged.card._state import Condition, State, read_state
from edged.device import Device, Unfit, vfio_user
from edged.errors import DeviceLostError

__all__ = ["Way"]

_LOOK_SECONDS: Final = 1.0
_EMULATED: Final = "the emulated FPGA"


class Way:
    """Where connections go. Each device is reached by one way from its opening until it is lost.

    Args:
        card: where ``edged-card`` serves; None uses none.
        emulator: socket of the emulator; None uses none. With both, the card is used where there
            is one, and once one was there, nothing else is.
    """

    def __init__(self, card: Places | None, emulator: Path | None) -> None:
        self._card = card
        self._emulator = emulator
        self._lock = threading.Lock()
        self._socket: Path | None = None
        self._seen = False
        self._name = _EMULATED if card is None else "an FPGA"

    def __str__(self) -> str:
        """What is used, or was last."""
        return self._name

    def connect(self) -> socket.socket:
        """One more connection to the device; to a new one, if the last was lost.

        Raises:
            DeviceLostError: there is none; what keeps it away.
        """
        with self._lock:
            if self._socket is not None:
                return vfio_user.connect(self._socket)
            connection = self._to_card() if self._card is not None else None
            if connection is None:
                assert self._emulator is not None, "a way to nowhere"
                connection = vfio_user.connect(self._emulator)
                self._socket, self._name = self._emulator, _EMULATED
            return connection

    def opening(
        self, open_device: Callable[[socket.socket], Device]
    ) -> Callable[[socket.socket], Device]:
        """*open_device*, after whose failure another device may be chosen."""

        def opened(connection: socket.socket) -> Device:
            try:
                return open_device(connection)
            except BaseException:
                self._socket = None
                raise

        return opened

    def watching(
        self, unfit: Callable[[Device], Awaitable[Unfit]]
    ) -> Callable[[Device], Awaitable[Unfit]]:
        """*unfit*, which ends as well when a card comes while the emulator is used."""

        async def watched(device: Device) -> Unfit:
            waits = [
                asyncio.ensure_future(unfit(device)),
                asyncio.ensure_future(self._card_comes()),
            ]
            try:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                return next(iter(done)).result()
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
                self._socket = None

        return watched

    def _to_card(self) -> socket.socket | None:
        """A connection to the card; None if the emulator is to be used."""
        assert self._card is not None
        state = read_state(self._card.state)
        try:
            connection = vfio_user.connect(self._card.socket)
        except DeviceLostError as error:
            absent = state is None or state.condition in (Condition.NONE, Condition.STOPPED)
            if self._emulator is not None and absent and not self._seen:
                return None
            raise DeviceLostError(_why(state)) from error
        self._seen = True
        self._socket = self._card.socket
        self._name = f"card {state.card}" if state is not None and state.card else "a card"
        return connection

    async def _card_comes(self) -> Unfit:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._card is None or self._socket != self._emulator:
                continue
            state = read_state(self._card.state)
            if state is not None and state.condition is Condition.SERVED:
                why = f"there is a card now, {state.card}, which is used from here on"
                return Unfit(why, mended=True)


def _why(state: State | None) -> str:
    """Why there is no card to use."""
    if state is None or state.condition is Condition.STOPPED:
        return (
            "cannot reach a card: edged-card does not run; systemctl start edged-card, or set"
            ' device.use to "emulator"'
        )
    if state.problem:
        return state.problem
    if state.condition is Condition.OPENING:
        return f"cannot use card {state.card} yet: it is being opened"
    if state.condition is Condition.SERVED:
        return (
            f"cannot reach card {state.card}: edged-card does not answer; see systemctl status"
            " edged-card"
        )
    return "cannot find a card: no PCI device is like one of ours"
