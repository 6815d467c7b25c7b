"""Which device the daemon uses, and what it says when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from edged.card import Condition, Places, State, Way
from edged.card._state import write_state
from edged.device import Unfit
from edged.errors import DeviceLostError

Listen = Callable[[Path], socket.socket]


@pytest.fixture
def listen() -> Iterator[Listen]:
    with contextlib.ExitStack() as stack:

        def at(path: Path) -> socket.socket:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(path))
            listener.listen()
            return listener

        yield at


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.beside(tmp_path / "card.sock")


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    return tmp_path / "device.sock"


def use(way: Way) -> str:
    with way.connect():
        return str(way)


def test_without_a_card_the_emulator_is_used(
    places: Places, emulator: Path, listen: Listen
) -> None:
    listen(emulator)
    assert use(Way(places, emulator)) == "the emulated FPGA"
    for condition in (Condition.NONE, Condition.STOPPED):
        write_state(places.state, State(condition, problem="cannot find a card"))
        assert use(Way(places, emulator)) == "the emulated FPGA"


def test_a_card_goes_before_the_emulator(places: Places, emulator: Path, listen: Listen) -> None:
    listen(emulator)
    listen(places.socket)
    write_state(places.state, State(Condition.SERVED, "0000:01:00.0 (a card)"))
    assert use(Way(places, emulator)) == "card 0000:01:00.0 (a card)"
    assert use(Way(None, emulator)) == "the emulated FPGA"


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (State(Condition.PROBLEM, "a card", "cannot choose a card: there are 2"), "there are 2"),
        (State(Condition.OPENING, "a card"), "cannot use card a card yet"),
        (State(Condition.SERVED, "a card"), "edged-card does not answer"),
    ],
)
def test_a_card_that_cannot_be_used_is_no_reason_for_the_emulator(
    places: Places, emulator: Path, listen: Listen, state: State, why: str
) -> None:
    listen(emulator)
    write_state(places.state, state)
    with pytest.raises(DeviceLostError, match=why):
        Way(places, emulator).connect()


def test_with_a_card_wanted_only_that_is_used(places: Places, listen: Listen) -> None:
    with pytest.raises(DeviceLostError, match="edged-card does not run; systemctl start"):
        Way(places, None).connect()
    places.state.write_bytes(b"nothing that can be read")
    with pytest.raises(DeviceLostError, match="edged-card does not run"):
        Way(places, None).connect()


async def test_a_card_that_went_is_waited_for(
    places: Places, emulator: Path, listen: Listen
) -> None:
    listen(emulator)
    listener = listen(places.socket)
    write_state(places.state, State(Condition.SERVED, "a card"))
    way = Way(places, emulator)
    use(way)
    listener.close()
    places.socket.unlink()
    write_state(places.state, State(Condition.NONE))

    async def gone(_: object) -> Unfit:
        return Unfit("it is gone", mended=False)

    device: Any = None
    assert (await way.watching(gone)(device)).why == "it is gone"
    with pytest.raises(DeviceLostError, match="cannot find a card"):
        way.connect()


async def test_a_card_that_comes_takes_the_emulators_place(
    places: Places, emulator: Path, listen: Listen
) -> None:
    listen(emulator)
    way = Way(places, emulator)
    use(way)

    async def fit(_: object) -> Unfit:
        await asyncio.Event().wait()
        raise AssertionError

    device: Any = None
    watching = asyncio.create_task(way.watching(fit)(device))
    listen(places.socket)
    # Until it is lost, a device is reached by the way it was opened: its container, too.
    assert use(way) == "the emulated FPGA"
    write_state(places.state, State(Condition.SERVED, "a card"))
    async with asyncio.timeout(PATIENCE):
        assert "there is a card now, a card" in (await watching).why
    assert use(way) == "card a card"


def test_a_device_that_cannot_be_opened_is_chosen_anew(
    places: Places, emulator: Path, listen: Listen
) -> None:
    listen(emulator)
    way = Way(places, emulator)
    use(way)

    def fails(_: socket.socket) -> Any:
        raise DeviceLostError("cannot open")

    with pytest.raises(DeviceLostError), way.connect() as connection:
        way.opening(fails)(connection)
    listen(places.socket)
    assert use(way) == "a card"
