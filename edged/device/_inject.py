"""Arming faults in a device that can rehearse them."""

from __future__ import annotations

from edged.device._transport import Transport
from edged.errors import IncompatibleError
from edged.npu.registers import MAGIC, Capability, Inject, Injection, Reg

__all__ = ["disarm", "inject"]


def inject(
    transport: Transport,
    kind: Injection,
    *,
    value: int = 0,
    milliseconds: int = 0,
    after: int = 0,
    times: int = 1,
    chance: float = 1.0,
) -> None:
    """Arm a fault, or have it strike at once; the arguments are those of the registers.

    Args:
        chance: that an event is struck, above 0 up to 1.

    Raises:
        IncompatibleError: the device cannot do that.
        DeviceLostError: it is gone.
    """
    for register, content in (
        (Inject.VALUE, value),
        (Inject.MILLISECONDS, milliseconds),
        (Inject.AFTER, after),
        (Inject.TIMES, times),
        (Inject.CHANCE, 0 if chance >= 1 else max(1, int(chance * (1 << 32)))),
        (Inject.ARM, kind),
    ):
        _write(transport, register, content)


def disarm(transport: Transport) -> None:
    """Take back what is armed and has not struck. Raises as :func:`inject`."""
    _write(transport, Inject.ARM, 0)


def _write(transport: Transport, register: Inject, content: int) -> None:
    capable = (
        transport.region_read(Reg.MAGIC) == MAGIC
        and transport.region_read(Reg.CAPABILITIES) & Capability.FAULT_INJECTION
    )
    if not capable:
        raise IncompatibleError(
            "cannot inject a fault: the device does not take any; an emulator that is started with"
            " --fault-injection does"
        )
    transport.region_write(register.address(), content)
