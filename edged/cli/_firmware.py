"""``edgectl device flash`` and ``image``: the firmware of the card."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edged.cli._control import Daemon, socket_path
from edged.cli._options import ConfigOption, JsonOption, SocketOption
from edged.cli._output import print_json, stderr, stdout
from edged.errors import InputError
from edged.management import Change, Flashed
from edged.npu import (
    ABI,
    EMULATOR_SHELL,
    MAX_FIRMWARE_BYTES,
    Array,
    FirmwareKind,
    parse_firmware,
    serialize_firmware,
)

__all__ = ["FLASH_EXAMPLES", "IMAGE_EXAMPLES", "flash", "image"]

FLASH_EXAMPLES: Final = (
    "edgectl device flash role-1.2.edgefw · edgectl device flash role-1.2.edgefw --force --yes"
)
IMAGE_EXAMPLES: Final = (
    "edgectl device image try.edgefw --name 'a try' ·"
    " edgectl device image role.edgefw --payload top.rbf --shell 0123456789abcdef --array 16x32x4"
)

_INTERRUPTED: Final = 130


def flash(
    file: Annotated[Path, typer.Argument(metavar="IMAGE", help="A firmware image for this card.")],
    golden: Annotated[
        bool, typer.Option("--golden", help="It is the golden image, which boots without a role.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Interrupt the model that serves; it serves again after."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the firmware of the card: its role, or with --golden its golden image.

    What is not for this card, or damaged, is refused. If the power fails meanwhile, the golden
    image boots, and the card can be flashed again.
    """
    content = _read(file)
    header = parse_firmware(content).header
    if not yes:
        _ask(f"flash {header}?")
    query = f"golden={int(golden)}&force={int(force)}"
    changes = Daemon(socket_path(socket, config)).send(f"/v1/device/firmware?{query}", content)
    done = _follow(changes)
    if as_json:
        print_json(msgspec.to_builtins(done))
    elif done.kind == "golden":
        stdout().print(f"flashed {escape(done.firmware)}; what runs runs on")
    else:
        stdout().print(f"flashed {escape(done.firmware)}; it runs")


def image(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")],
    payload: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The gateware. For an emulator anything: by default, the name."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="For people, at most 32 bytes.")] = "",
    golden: Annotated[bool, typer.Option("--golden", help="A golden image, no role.")] = False,
    shell: Annotated[
        str,
        typer.Option(help="16 hex digits: the shell that it is for; by default the emulator's."),
    ] = EMULATOR_SHELL.hex(),
    array: Annotated[str, typer.Option(metavar="TIxTOxTP", help="Its MAC array.")] = str(Array()),
    abi: Annotated[int, typer.Option(min=0, max=0xFFFF, help="That it implements.")] = ABI,
    as_json: JsonOption = False,
) -> None:
    """Make a firmware image out of a gateware, or one for the emulator to try."""
    content = _read(payload) if payload is not None else (name or output.name).encode()
    data = serialize_firmware(
        FirmwareKind.GOLDEN if golden else FirmwareKind.ROLE,
        content,
        shell=_shell(shell),
        abi=abi,
        array=_array(array),
        name=name,
    )
    header = parse_firmware(data).header
    try:
        output.write_bytes(data)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from error
    if as_json:
        print_json({"path": str(output), "size": len(data), "is": str(header)})
    else:
        stdout().print(f"{escape(str(output))}: {escape(str(header))}")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FIRMWARE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise InputError("cannot ask whether to flash: there is no terminal; say --yes")
    if not typer.confirm(question):
        raise typer.Exit(_INTERRUPTED)


def _follow(changes: Iterator[Change]) -> Flashed:
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    done = None
    try:
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task("asking", total=None)
            for change in changes:
                done = change.flashed
                progress.update(
                    task,
                    description=escape(change.text),
                    total=None if change.fraction is None else 1.0,
                    completed=change.fraction or 0.0,
                )
    except KeyboardInterrupt:
        console.print("edgectl: not waiting any longer; edged goes on flashing")
        raise typer.Exit(_INTERRUPTED) from None
    assert done is not None  # the last line has it, or the iterator raised
    return done


def _shell(text: str) -> bytes:
    try:
        shell = bytes.fromhex(text)
    except ValueError:
        shell = b""
    if len(shell) != 8:
        raise InputError(f"cannot make an image for shell {text!r}: wanted 16 hex digits")
    return shell


def _array(text: str) -> Array:
    sizes = text.split("x")
    if len(sizes) != 3 or not all(s.isdecimal() and 0 < int(s[:9]) <= 1024 for s in sizes):
        raise InputError(f"cannot make an image for array {text!r}: wanted TIxTOxTP, as 16x32x4")
    return Array(*map(int, sizes))
