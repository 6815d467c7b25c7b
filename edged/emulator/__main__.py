"""``python -m edged.emulator``: the emulated device as a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import resource
import signal
import socket
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from edged import __version__
from edged.emulator._core import Pace
from edged.emulator._faults import KINDS, Faults, read_schedule
from edged.emulator._gateware import Gateware
from edged.emulator._selftest import exact_weight_encodings
from edged.emulator._server import Server
from edged.errors import ConfigError, EdgedError
from edged.npu import Array
from edged.places import DEVICE_SOCKET, runtime_place, state_place

_ENDING = (signal.SIGTERM, signal.SIGINT)

_DESCRIPTION = """\
Emulates the NPU card: a vfio-user server on a UNIX socket, which any number of clients of the same
user may open. Prints one line on standard output when it is ready; SIGTERM or SIGINT end it.

--faults FILE reads what is to go wrong, and when, from a TOML file of tables like
  [[fault]]
  kind = "hang"     # {kinds}
  after = 100       # events that pass unharmed before; times, chance: how many, how often
  at_seconds = 5    # not armed before
With --fault-injection, `edgectl device inject` does it by hand. docs/rehearsing-failures.md has
more.
"""


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes.

    Returns:
        The exit status, after ``sysexits.h``.
    """
    options = _parser().parse_args(arguments)
    by_default = "socket" not in options
    if by_default:
        options.socket = runtime_place(os.environ, state_place(os.environ)) / DEVICE_SOCKET
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    # The queues' threads and the message loop share the interpreter: hand over sooner than in 5 ms.
    sys.setswitchinterval(0.0005)
    try:
        if by_default:
            _make_folder(options.socket.parent)
        return _serve(options)
    except EdgedError as error:
        sys.stderr.write(f"edged-emulator: {error}\n")
        return error.exit_status


def _serve(options: argparse.Namespace) -> int:
    schedule = read_schedule(options.faults) if options.faults else []
    faults = Faults(options.seed)
    weights = exact_weight_encodings()
    device = Gateware(
        array=options.array,
        dram_bytes=options.dram << 20,
        weights=weights,
        threads=options.threads,
        pace=Pace(options.pace),
        faults=faults,
        injectable=options.fault_injection,
        flash=options.flash,
    )
    try:
        server = Server(options.socket, device, faults, schedule)
        _limit_memory(options.dram + options.memory)
        with _stopped_by_signals(server):
            sys.stdout.write(
                f"ready: {options.socket}: array {options.array}, {options.dram} MiB of DRAM,"
                f" pace {options.pace}, weights {weights}\n"
            )
            sys.stdout.flush()
            server.serve()
    finally:
        device.stop()
    return 0


def _make_folder(folder: Path) -> None:
    """The folder of sockets, for the user alone, where the daemon has not made it yet."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make {folder} for the device's socket: {error.strerror}; name another place:"
            " --socket PATH, and device.socket in edged's configuration"
        ) from error


@contextlib.contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """SIGTERM and SIGINT stop *server*, whichever thread the kernel hands them to.

    The numerical libraries have threads before there is anything that could block signals in them,
    and a handler in Python that comes just before the loop waits would run after that only.
    """

    def wait() -> None:
        while told.recv(1):
            server.stop()

    told, tell = socket.socketpair()
    tell.setblocking(False)
    thread = threading.Thread(target=wait, name="end")
    with told, tell:
        before = [signal.signal(number, lambda *_: None) for number in _ENDING]
        woken = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            for number, handler in zip(_ENDING, before, strict=True):
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken)
            tell.shutdown(socket.SHUT_WR)
            thread.join()


def _limit_memory(mebibytes: int) -> None:
    """An image comes from anyone, and may need far more than it brings: it fails, and not we."""
    limit = mebibytes << 20
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edged-emulator",
        description=_DESCRIPTION.format(kinds=_wrapped(KINDS)),
        formatter_class=_Formatter,
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=argparse.SUPPRESS,  # it differs from one machine to the next
        metavar="PATH",
        help="where to listen, mode 0600; by default where edged looks by its default",
    )
    parser.add_argument(
        "--pace",
        choices=[pace.value for pace in Pace],
        default=Pace.FAST.value,
        help="as fast as this host can, or as slow as the gateware is modelled",
    )
    parser.add_argument(
        "--array", type=_array, default=Array(), metavar="TIxTOxTP", help="size of the MAC array"
    )
    parser.add_argument(
        "--dram", type=_dram, default=4096, metavar="MIB", help="device memory, taken when used"
    )
    parser.add_argument(
        "--memory",
        type=_dram,
        default=4096,
        metavar="MIB",
        help="the most that it takes for itself and to execute programs, beside the DRAM",
    )
    parser.add_argument(
        "--threads", type=_threads, default=1, metavar="N", help="threads that one run may use"
    )
    parser.add_argument(
        "--flash",
        type=Path,
        metavar="FILE",
        help="what keeps the card's firmware; made, with one of --array, if it is not there",
    )
    parser.add_argument("--faults", type=Path, metavar="FILE", help="what is to go wrong, and when")
    parser.add_argument(
        "--fault-injection",
        action="store_true",
        help="take faults through the registers as well; whoever opens the device may write them",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of faults that have a chance"
    )
    parser.add_argument("--version", action="version", version=f"edged-emulator {__version__}")
    parser.add_argument("--verbose", action="store_true", help="say why a descriptor was refused")
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside the options, and the description as it is."""


def _wrapped(kinds: Iterable[str]) -> str:
    return textwrap.fill(", ".join(kinds), 76).replace("\n", "\n                    # ")


def _seed(text: str) -> int:
    return _number(text, 0, (1 << 63) - 1)


def _array(text: str) -> Array:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", text)
    sizes = tuple(map(int, match.groups())) if match else (0,)
    if not all(0 < size <= 1024 for size in sizes):
        raise argparse.ArgumentTypeError(f"'{text}' is no array (try '16x32x4')")
    return Array(*sizes)


def _dram(text: str) -> int:
    return _number(text, 16, 1 << 20)


def _threads(text: str) -> int:
    return _number(text, 1, 256)


def _number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from {least} to {most}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
