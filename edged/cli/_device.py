"""``edgectl device``: how the device is, and rehearsing what it is like when it is not well."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape

from edged.cli._control import Daemon, configuration, socket_path
from edged.cli._firmware import FLASH_EXAMPLES, IMAGE_EXAMPLES, flash, image
from edged.cli._help import Commands
from edged.cli._options import ConfigOption, JsonOption, SocketOption
from edged.cli._output import print_json, print_table, stdout
from edged.cli.which import DeviceKind, device_for
from edged.device import disarm, inject, vfio_user
from edged.discovery import survey
from edged.management import DeviceReport
from edged.npu.registers import Injection

INJECT_EXAMPLES: Final = (
    "edgectl device inject hang · edgectl device inject temperature --value 104 --seconds 30 ·"
    " edgectl device inject removal --seconds 5"
)
WHICH_EXAMPLES: Final = "edgectl device which · edgectl device which --is emulator"

device = Commands(
    help="Show the device: its health, its banks, its resets.",
    invoke_without_command=True,
)


class _Kind(enum.StrEnum):
    """What can be injected, as it is typed."""

    HANG = "hang"
    LOST_INTERRUPT = "lost-interrupt"
    ECC_CORRECTED = "ecc-corrected"
    ECC_UNCORRECTED = "ecc-uncorrected"
    DMA_CRC = "dma-crc"
    TEMPERATURE = "temperature"
    LINK_DOWN = "link-down"
    REMOVAL = "removal"
    SLOW_LOAD = "slow-load"
    CORRUPT_BANK = "corrupt-bank"
    LINK_WIDTH = "link-width"
    LINK_SPEED = "link-speed"
    AER_CORRECTABLE = "aer-correctable"
    AER_UNCORRECTABLE = "aer-uncorrectable"
    DRAM_CALIBRATION = "dram-calibration"
    NONE = "none"


@device.callback()
def show(
    context: typer.Context,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the device: its health, its banks, its resets."""
    if context.invoked_subcommand is not None:
        return
    found = Daemon(socket_path(socket, config)).get("/v1/device", DeviceReport)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    for key, value in _facts(found):
        stdout().print(f"[bold]{key:8}[/bold] {escape(value)}")
    if found.readings:
        print_table(
            ("READING", "VALUE", "LEVEL"),
            [(each.name, each.text, each.level) for each in found.readings],
        )
    print_table(
        ("RESET", "DONE", "FAILED"),
        [
            (step, str(count), str(found.resets_failed.get(step, 0)))
            for step, count in found.resets.items()
        ],
    )


@device.command("which", epilog=WHICH_EXAMPLES)
def which(
    wanted: Annotated[
        DeviceKind | None,
        typer.Option("--is", help="Exit with 1 if it is not this one."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which device this machine is for, a card or the emulator, whether edged runs or not.

    That is what device.use says; if it is auto, a card where one is that could be ours.
    """
    kind, why = device_for(configuration(config).device.use, survey().cards)
    if as_json:
        print_json({"device": kind.value, "why": why})
    else:
        stdout().print(escape(f"{kind}: {why}"))
    if wanted not in (None, kind):
        raise typer.Exit(1)


device.command("flash", epilog=FLASH_EXAMPLES)(flash)
device.command("image", epilog=IMAGE_EXAMPLES)(image)


@device.command("inject", epilog=INJECT_EXAMPLES)
def inject_fault(
    kind: Annotated[_Kind, typer.Argument(help="The fault; none takes back what waits.")],
    value: Annotated[
        int,
        typer.Option(min=0, max=0xFFFF_FFFF, help="Degrees, bank, number: by kind of fault."),
    ] = 0,
    seconds: Annotated[float, typer.Option(min=0, max=4e6, help="How long it lasts.")] = 2.0,
    after: Annotated[
        int, typer.Option(min=0, max=0xFFFF_FFFF, help="Events that pass unharmed before.")
    ] = 0,
    times: Annotated[
        int, typer.Option(min=0, max=0xFFFF_FFFF, help="Events that are struck; 0 is all.")
    ] = 1,
    chance: Annotated[float, typer.Option(min=1e-9, max=1, help="That an event is struck.")] = 1.0,
    at: Annotated[
        Path | None,
        typer.Option(
            "--device", metavar="PATH", help="Socket of the emulator; by default the daemon's."
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have an emulator do what hardware may: see docs/rehearsing-failures.md.

    It has to be started with --fault-injection, and only its own user may.
    """
    path = at if at is not None else configuration(config).device.socket
    transport = vfio_user.VfioUserTransport(vfio_user.connect(path))
    try:
        if kind is _Kind.NONE:
            disarm(transport)
        else:
            inject(
                transport,
                Injection[kind.name],
                value=value,
                milliseconds=int(seconds * 1000),
                after=after,
                times=times,
                chance=chance,
            )
    finally:
        transport.close()
    if as_json:
        print_json({"device": str(path), "injected": None if kind is _Kind.NONE else kind.value})


def _facts(found: DeviceReport) -> list[tuple[str, str]]:
    facts = [("device", "in use" if found.present else f"not in use: {found.problem}")]
    if found.at is None:
        return facts
    facts += [
        ("state", found.state + (f" ({found.fault})" if found.fault != "NONE" else "")),
        ("is", found.identity),
        ("link", found.link),
    ]
    if found.flash:
        facts.append(("flash", found.flash))
    if found.probe_seconds is not None:
        facts.append(("probe", f"{found.probe_seconds * 1000:.1f} ms"))
    facts += [
        (f"bank {number}", f"{bank.status}{', active' if bank.active else ''}  {bank.digest[:16]}")
        for number, bank in enumerate(found.banks)
    ]
    facts.append(("read at", f"{datetime.fromtimestamp(found.at, UTC):%Y-%m-%d %H:%M:%S} UTC"))
    return facts
