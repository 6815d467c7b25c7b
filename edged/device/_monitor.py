"""Watches a device: reads its health, says what crosses a threshold, notices when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from edged.device._device import BankState, Device, Identity
from edged.device._flash import FlashState
from edged.device._health import Level, Reading, Thresholds, assess
from edged.device._ladder import Resets
from edged.device._pci import LinkState
from edged.device._transport import Transport
from edged.errors import EdgedError, IncompatibleError, UnavailableError
from edged.notices import Notice, about
from edged.npu.registers import Fault, State

__all__ = ["Monitor", "Report", "Unfit"]

_LOG = logging.getLogger(__name__)
_HUNG_AFTER: Final = 2.0
"""Seconds beyond the device's own watchdog, which should have been first."""
_CALM: Final = 5
"""How many times rarer the looks are while nothing runs and all is well."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was read of a device at one moment.

    Attributes:
        at: seconds since the epoch.
        probe: seconds that the last probe took; None if none was made.
        busy: for what part of the time since the look before it the array was at work, by its own
            counters; None at the first look.
        flash: what it boots, as it was when it was opened; None where that cannot be told.
    """

    at: float
    identity: Identity
    state: State
    fault: Fault
    link: LinkState
    readings: tuple[Reading, ...]
    banks: tuple[BankState, ...]
    probe: float | None
    busy: float | None = None
    flash: FlashState | None = None

    def level(self, name: str = "") -> Level:
        """The highest level, of all or of the reading *name*."""
        return max(
            (each.level for each in self.readings if not name or each.name == name),
            default=Level.OK,
        )


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a device is of no use as it is.

    Attributes:
        mended: whether to open it anew is likely to help, and soon.
    """

    why: str
    mended: bool


class Monitor:
    """Opens devices so that they are of use, and says when they no longer are.

    Its reads take a thread of their own, and neither a run nor a load delays them.

    Args:
        poll_seconds: pause between looks, five times that while nothing runs and all is well. The
            device's interrupt calls for one at once.
        watchdog_seconds: longest time a run may take; 0 is for ever.
        on_throttle: told whether calls are to be slowed down, when that changes; from the loop.

    Attributes:
        resets: what was done so far to devices that did not work.
        report: the last one, also of a device that is gone; None before the first.
        present: whether a device is open.
        throttled: whether calls are to be slowed down.
        thresholds: may be replaced at any time; they hold from the next look on.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        *,
        poll_seconds: float = 1.0,
        watchdog_seconds: float = 10.0,
        on_throttle: Callable[[bool], None] = lambda _throttled: None,
    ) -> None:
        self.thresholds = thresholds
        self.resets = Resets()
        self.report: Report | None = None
        self.present = False
        self.on_throttle = on_throttle
        self._poll_seconds = poll_seconds
        self._watchdog_seconds = watchdog_seconds
        self.throttled = False
        self._levels: dict[str, Level] = {}
        self._link_errors = [0, 0]
        self._flash: FlashState | None = None
        self._seen_on_link: set[str] = set()
        self._progress: tuple[int, int] | None = None
        self._progressed = 0.0
        self._cycles: tuple[int, int] | None = None
        self._at_rest = False
        self._suspect = False
        self._thread = ThreadPoolExecutor(1, "device-monitor")

    def open(self, transport: Transport) -> Device:
        """Open a device, reset as far as needed; blocking.

        Raises:
            UnavailableError: a reading says that it must not be used now.
            IncompatibleError: it runs its golden image, and has to be flashed.
            DeviceError, DeviceLostError: as :meth:`Device.open`.
        """
        device = Device.open(transport, self.resets, suspect=self._suspect)
        self._suspect = False
        try:
            device.set_watchdog(int(self._watchdog_seconds * 1000))
            self._flash = device.flash_state()
            self._look(device)
            assert self.report is not None
            if self.report.state is State.GOLDEN:
                raise IncompatibleError(
                    "cannot use device: it runs its golden image, because there is no sound role in"
                    " its flash or no reset helped; flash one: edgectl device flash IMAGE"
                )
            if stop := self._stop():
                raise UnavailableError(f"cannot use device: {stop}")
        except BaseException:
            device.close()
            raise
        return device

    async def unfit(self, device: Device) -> Unfit:
        """Watch *device* until it must not, or cannot, be used as it is; why.

        To open it anew then resets it.
        """
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        event = device.event_fd
        loop.add_reader(event, _drain, event, called)
        self._progress = None
        self.present = True
        try:
            while True:
                called.clear()
                why = await loop.run_in_executor(self._thread, self._check, device)
                self._throttle()
                if why is not None:
                    return why
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await called.wait()
        finally:
            self.present = False
            loop.remove_reader(event)

    def _pause(self) -> float:
        """Longer while nothing runs and all is well: each look is a dozen reads and a fence."""
        assert self.report is not None
        calm = self._at_rest and self.report.level() is Level.OK
        return self._poll_seconds * (_CALM if calm else 1)

    def _check(self, device: Device) -> Unfit | None:
        """Why *device* is of no use as it is; None if it is."""
        try:
            self._look(device)
            assert self.report is not None
            if stop := self._stop():
                return Unfit(stop, mended=False)
            fault = self.report.fault
            if self.report.state is State.FAULTED:
                hot = fault is Fault.OVER_TEMPERATURE
                return Unfit(f"it is FAULTED ({fault.name})", mended=not hot)
            hung = self._hung(device)
            return Unfit(hung, mended=True) if hung else None
        except (EdgedError, OSError) as error:
            return Unfit(str(error), mended=False)

    def _look(self, device: Device) -> None:
        state, readings, link = device.state(), device.readings(), device.link()
        assessed = assess(
            readings,
            link,
            self._counted(device),
            device.identity,
            self.thresholds,
            self._levels,
        )
        for reading in assessed:
            before = self._levels.get(reading.name, Level.OK)
            if reading.level is not before:
                log = _LOG.warning if reading.level > before else _LOG.info
                log(
                    "device: %s: %s, was %s",
                    reading,
                    reading.level.name,
                    before.name,
                    extra=about(Notice.DEVICE_LEVEL, device=device.identity),
                )
            self._levels[reading.name] = reading.level
        probe = device.probe()
        self.report = Report(
            time.time(),
            device.identity,
            state,
            readings.fault,
            link,
            assessed,
            device.banks(),
            probe,
            self._busy(readings.cycles, readings.busy_cycles),
            self._flash,
        )

    def _busy(self, cycles: int, busy: int) -> float | None:
        """The part of *cycles* since the look before in which it was at work."""
        before, self._cycles = self._cycles, (cycles, busy)
        if before is None or not before[0] < cycles or busy < before[1]:
            return None  # The first look, or the counters began anew.
        return min((busy - before[1]) / (cycles - before[0]), 1.0)

    def _counted(self, device: Device) -> tuple[int, int]:
        """How many errors on the link there were; told of by kind, once each."""
        errors = device.link_errors()
        for index, kinds in enumerate((errors.correctable, errors.uncorrectable)):
            self._link_errors[index] += len(kinds)
            for kind in set(kinds) - self._seen_on_link:
                self._seen_on_link.add(kind)
                log = _LOG.warning if index else _LOG.info
                log(
                    "device: the link reports: %s",
                    kind,
                    extra=about(Notice.LINK_ERROR, device=device.identity),
                )
        return self._link_errors[0], self._link_errors[1]

    def _stop(self) -> str:
        assert self.report is not None
        # Without the values: each new one would be one more line in the log.
        stops = [each.name for each in self.report.readings if each.level is Level.STOP]
        return f"its {' and '.join(stops)} says stop; edgectl device shows it" if stops else ""

    def _hung(self, device: Device) -> str:
        """Whether a data queue that someone holds stands still for longer than any run may take."""
        progress = device.progress()
        now = time.monotonic()
        idle = progress is None or progress[0] == progress[1]
        self._at_rest = progress == self._progress and idle
        if progress != self._progress or idle:
            self._progress, self._progressed = progress, now
        limit = self._watchdog_seconds + _HUNG_AFTER
        if self._watchdog_seconds and now - self._progressed > limit:
            self._suspect = True
            return f"a run hangs: nothing has come of it for {limit:g} s, and its watchdog sleeps"
        return ""

    def _throttle(self) -> None:
        assert self.report is not None or not self.throttled
        throttled = self.report is not None and self.report.level() >= Level.THROTTLE
        if throttled != self.throttled:
            self.throttled = throttled
            _LOG.warning(
                "device: calls are %s",
                "slowed down" if throttled else "no longer slowed down",
                extra=about(Notice.DEVICE_SLOWED),
            )
            self.on_throttle(throttled)


def _drain(event: int, called: asyncio.Event) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(event)
    called.set()
