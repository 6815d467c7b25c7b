"""A drop folder, an intake that looks after it, and who stands for the rest of edged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

from patience import PATIENCE

from edged.intake import Arrival, Intake, Served, Stored, Tell

# So long that whatever happens within a test was not brought about by a rescan.
NEVER = 3600.0
SETTLE = 0.05
SINCE = datetime(2026, 11, 22, 18, 44, 5, tzinfo=UTC)


class Acceptor:
    """Stands for the rest of edged: remembers what it was given, answers what it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self.arrivals: list[Arrival] = []
        self.answer: Callable[[Path, Tell], object] = lambda _path, _tell: None
        self.hold = asyncio.Event()
        self.hold.set()
        self.running = 0
        self.stored: Stored | None = None
        self.serving: Callable[[str, datetime], None] = lambda _model, _since: None

    async def __call__(self, arrival: Arrival, tell: Tell) -> Served | Stored:
        path = arrival.file
        self.arrivals.append(arrival)
        assert not self.running, "two files at work at once"
        self.running += 1
        try:
            self._begin(path, tell)
            await self.hold.wait()
        finally:
            self.running -= 1
        if self.stored is not None:
            return self.stored
        self.serving(path.stem, SINCE)
        return Served(path.stem, SINCE)

    def _begin(self, path: Path, tell: Tell) -> None:
        self.taken.append((path.name, path.read_bytes()))
        self.answer(path, tell)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.taken]


@contextlib.asynccontextmanager
async def running(drop: Path, acceptor: Acceptor, **settings: float) -> AsyncIterator[Intake]:
    intake = Intake(
        drop,
        acceptor,
        rescan_seconds=settings.pop("rescan_seconds", NEVER),
        settle_seconds=settings.pop("settle_seconds", SETTLE),
        **settings,  # type: ignore[arg-type]  # whole and broken numbers alike
    )
    acceptor.serving = intake.serving
    await intake.start()
    try:
        yield intake
    finally:
        await intake.stop()


async def until(true: Callable[[], object]) -> None:
    """Wait for something outside; fail when it does not come true."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)


def status(drop: Path, name: str) -> str:
    try:
        return (drop / f"{name}.status.txt").read_text()
    except FileNotFoundError:
        return ""


async def until_status(drop: Path, name: str, start: str) -> str:
    await until(lambda: status(drop, name).startswith(start))
    return status(drop, name)


async def rescans(drop: Path, intake: Intake) -> None:
    """Wait until the intake has looked at all there is now, by a file that it is sure to see."""
    probe = drop / "probe.other"
    probe.write_bytes(b"x")
    await until_status(drop, "probe.other", "ignored")
    probe.unlink()
    await until(lambda: not status(drop, "probe.other"))
