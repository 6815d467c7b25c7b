"""``python -m firmware.sim``: the gateware, simulated, as a device behind a socket.

What ``edged-card`` does with a card, this does with the RTL: the daemon, a container and edgectl
open it like the emulator.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from edged._vfio_user_server import Server
from edged.card import SharedCard
from edged.errors import EdgedError
from edged.npu.registers import Array
from firmware.rtl.parameters import Parameters
from firmware.sim.device import simulated

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit status."""
    options = _parser().parse_args(arguments)
    # Whichever thread the kernel hands a signal to, it arrives here.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in _ENDING:
        signal.signal(number, lambda *_: None)
    sys.setswitchinterval(0.0005)
    begun = time.monotonic()
    try:
        parameters = Parameters(options.array, options.activation_buffer, options.weight_buffer)
        transport = simulated(parameters)
        try:
            server = Server(options.socket, SharedCard(transport))
            thread = threading.Thread(target=server.serve, name="server")
            thread.start()
            sys.stdout.write(
                f"ready: {options.socket}: array {options.array}, simulated RTL,"
                f" {time.monotonic() - begun:.0f} s to build\n"
            )
            sys.stdout.flush()
            os.read(told, 1)
            server.stop()
            thread.join()
        finally:
            transport.close()
    except EdgedError as error:
        sys.stderr.write(f"firmware.sim: {error}\n")
        return error.exit_status
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(f"firmware.sim: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firmware.sim",
        description="Simulates the NPU's gateware, as a vfio-user server on a UNIX socket. Prints"
        " one line on standard output when it is ready; SIGTERM or SIGINT end it. What it builds"
        " with Verilator is kept in build/rtl.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        "--array",
        type=_array,
        default=Array(8, 8, 1),
        metavar="TIxTOxTP",
        help="size of the array; large ones take minutes to build",
    )
    parser.add_argument(
        "--activation-buffer", type=int, default=16 << 10, metavar="BYTES", help="on the chip"
    )
    parser.add_argument(
        "--weight-buffer", type=int, default=8 << 10, metavar="BYTES", help="on the chip"
    )
    return parser


def _array(text: str) -> Array:
    match = re.fullmatch(r"(\d{1,2})x(\d{1,2})x(\d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no array (try '8x8x1')")
    return Array(*map(int, match.groups()))


if __name__ == "__main__":
    sys.exit(main())
