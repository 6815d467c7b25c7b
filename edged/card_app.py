"""``edged-card``: has the card while the daemon comes and goes, as the emulator has the other.

The composition root of that process, as :mod:`edged.app` is the daemon's.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from edged import __version__
from edged.card import Condition, Keeper, Places, State
from edged.config import Config, DeviceUse, IommuUse, load_config
from edged.discovery import PciAddress, Wanted
from edged.errors import ConfigError, EdgedError
from edged.host import Notifier, log_failure, set_up_logging

__all__ = ["main"]

_LOG = logging.getLogger("edged")
_DESCRIPTION = """\
Finds the FPGA card on the PCI bus, takes it from the kernel for VFIO, and hands it out to the
daemon and to the model's container over a socket, as edged-emulator does with an emulated one. At
the end it is bound to what it was bound to before. Needs root; docs/cards.md has more.
"""


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit status, after ``sysexits.h``."""
    parser = argparse.ArgumentParser("edged-card", description=_DESCRIPTION)
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="the configuration of edged, in TOML"
    )
    parser.add_argument("--version", action="version", version=f"edged-card {__version__}")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        set_up_logging(config.log.level)
        # The server's thread and the loop share the interpreter: hand over sooner than in 5 ms.
        sys.setswitchinterval(0.0005)
        asyncio.run(_run(config))
    except EdgedError as error:
        log_failure(str(error))
        return error.exit_status
    return 0


async def _run(config: Config) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier()
    if config.device.use is DeviceUse.EMULATOR:
        _LOG.info('leaving every card alone: device.use is "emulator"')
        notifier.ready()
        await stop.wait()
        return
    places = Places.beside(config.device.card_socket)
    try:
        places.socket.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot use {places.socket.parent} for the card's socket: {error.strerror}; see"
            " device.card_socket in the configuration"
        ) from error

    def tell(state: State) -> None:
        notifier.status(state.problem or f"{state.card or 'no card'}: {state.condition}")
        if state.condition is not Condition.OPENING:
            notifier.ready()  # What is said more often than once changes nothing.

    address = config.device.address
    wanted = Wanted(PciAddress.parse(address) if address else None, config.device.serial.lower())
    needs_iommu = config.device.iommu is IommuUse.REQUIRED
    await Keeper(wanted, places, on_state=tell, needs_iommu=needs_iommu).run(stop)
    notifier.stopping()


if __name__ == "__main__":
    sys.exit(main())
