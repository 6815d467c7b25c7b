"""The parts of docs/board-vendors.md that are made from the code: ``make docs`` writes them.

python packaging/board_vendors.py docs/board-vendors.md
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from edged.device import Device, Step, vfio_user
from edged.device import _device as driver
from edged.device import _flash as flashing
from edged.device import _ring as ring
from edged.discovery import KNOWN
from edged.npu import MAX_FIRMWARE_BYTES, MAX_IMAGE_BYTES, firmware, registers

__all__ = ["remade"]

_MARKS: Final = re.compile(
    r"(<!-- (?P<what>[a-z-]+): made by `make docs` -->\n).*?(<!-- end -->\n)", re.DOTALL
)


def remade(page: str) -> str:
    """*page* with what stands between its marks made anew.

    Raises:
        KeyError: a mark asks for what there is not.
    """
    return _MARKS.sub(lambda found: f"{found[1]}\n{_PARTS[found['what']]()}\n{found[3]}", page)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _of(kind: type[enum.IntEnum], head: str = "value", digits: int = 0, base: int = 0) -> str:
    """The members of an enumeration, with what the source says of each."""
    said = _comments(kind)
    rows = [
        (f"`{_number(int(member) + base, digits)}`", f"`{member.name}`", said.get(member.name, ""))
        for member in kind
    ]
    return _table((head, "name", ""), rows)


def _number(value: int, digits: int) -> str:
    return f"0x{value:0{digits}x}" if digits else str(value)


def _comments(kind: type[enum.Enum]) -> dict[str, str]:
    """The text below each member, in a line, as Markdown has it."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    said = {}
    for member, after in zip(body.body, [*body.body[1:], None], strict=True):
        if (
            isinstance(member, ast.Assign)
            and isinstance(member.targets[0], ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            said[member.targets[0].id] = _prose(str(after.value.value))
    return said


def _prose(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def _layout(kind: Any) -> str:
    """The fields of a structure with a STRUCT, by their offsets."""
    names = [field.name for field in dataclasses.fields(kind)]
    offset, rows = 0, []
    sizes = {"B": 1, "H": 2, "I": 4, "Q": 8}
    for name, code in zip(names, kind.STRUCT.format.lstrip("<").rstrip("4x"), strict=True):
        rows.append((offset, sizes[code], f"`{name}`"))
        offset += sizes[code]
    return f"{kind.SIZE} bytes.\n\n" + _table(("offset", "bytes", "field"), rows)


def _registers() -> str:
    parts = [
        ("Once", _of(registers.Reg, "offset", 4)),
        (
            f"For each of {registers.QUEUES} queues, {registers.QUEUE_STRIDE:#x} bytes apart from"
            f" {registers.Reg.QUEUE:#x} on",
            _of(registers.Queue, "offset", 2),
        ),
        (
            f"For each of {registers.BANKS} banks, {registers.BANK_STRIDE:#x} bytes apart from"
            f" {registers.Reg.BANK:#x} on",
            _of(registers.Bank, "offset", 2),
        ),
        (f"Flash, from {registers.Reg.FLASH:#x} on", _of(registers.Flash, "offset", 2)),
    ]
    return "\n".join(f"{title}:\n\n{table}" for title, table in parts)


def _codes() -> str:
    return "\n".join(
        f"`{title}`:\n\n{_of(kind)}"
        for title, kind in (
            ("STATE", registers.State),
            ("COMMAND", registers.Command),
            ("RESET_CAUSE", registers.ResetCause),
            ("FAULT_CODE", registers.Fault),
            ("CAPABILITIES", registers.Capability),
            ("Bank.STATUS", registers.BankStatus),
            ("Queue.CONTROL", registers.QueueControl),
        )
    )


def _flash_codes() -> str:
    return "\n".join(
        f"`{title}`:\n\n{_of(kind)}"
        for title, kind in (
            ("Flash.COMMAND", registers.FlashCommand),
            ("Flash.STATUS", registers.FlashStatus),
            ("Flash.REGION", firmware.FirmwareKind),
        )
    )


def _rings() -> str:
    return (
        f"A descriptor, {_layout(registers.Descriptor)}\n"
        f"A completion, {_layout(registers.Completion)}\n"
        f"Operations:\n\n{_of(registers.Operation, 'op')}\n"
        f"Flags of a descriptor:\n\n{_of(registers.DescriptorFlag, 'bit')}\n"
        f"Statuses of a completion:\n\n{_of(registers.Status, 'status')}"
    )


def _timing() -> str:
    rows = [
        ("a queue aborts and lets go of the host's memory", f"{driver._ABORT_SECONDS:g} s"),
        ("likewise when a container takes its queue", f"{ring.DISABLE_SECONDS:g} s"),
        ("soft reset", f"{driver._RESET_SECONDS:g} s"),
        (
            "function-level reset, which PCI Express wants within 0.1 s",
            f"{vfio_user._ANSWER_SECONDS:g} s",
        ),
        ("a FENCE on the management queue, whatever runs", f"{driver._PROBE_SECONDS:g} s"),
        ("LOAD_IMAGE", f"{_timeout(Device.load):g} s"),
        ("ACTIVATE_BANK, with the end of the run under way", f"{_timeout(Device.activate):g} s"),
        ("a completion is looked for without an interrupt", f"every {ring._HINT_MS} ms"),
        ("WRITE_FLASH", f"{flashing._WRITE_SECONDS:g} s"),
        ("ERASE and VERIFY show PROGRESS", f"every {flashing._STALL_SECONDS:g} s"),
        ("BOOT_ROLE, BOOT_GOLDEN, until STATE is not RESETTING", f"{flashing._BOOT_SECONDS:g} s"),
    ]
    return _table(("what", "edged waits"), rows)


def _timeout(method: Callable[..., Any]) -> float:
    return float(inspect.signature(method).parameters["timeout"].default)


def _ladder() -> str:
    said = _comments(Step)
    rows = [(number, step.value, said[step.name]) for number, step in enumerate(Step, 1)]
    return _table(("", "step", ""), rows)


def _ids() -> str:
    rows = [
        (f"`{vendor:04x}:{device:04x}`", what) for (vendor, device), what in sorted(KNOWN.items())
    ]
    return _table(("PCI id", ""), rows)


def _firmware() -> str:
    said = inspect.getdoc(firmware) or ""
    rows = re.findall(r"^(\d+) +(\d+) +(.+)$", said, re.MULTILINE)
    return _table(("offset", "bytes", ""), [(a, b, _prose(text)) for a, b, text in rows])


def _bounds() -> str:
    rows = [
        ("MAGIC", f"`{registers.MAGIC:#010x}`, the bytes `EDGE`"),
        ("ABI", registers.ABI),
        ("key of the golden region", f"`{registers.FLASH_KEY:#010x}`"),
        ("management queue", registers.QUEUE_MANAGEMENT),
        (
            "data queue",
            f"{registers.QUEUE_DATA}; refuses LOAD_IMAGE, ACTIVATE_BANK and WRITE_FLASH with"
            " BAD_OPERATION",
        ),
        ("PCI class", f"`{registers.PCI_CLASS:#08x}`"),
        ("BAR 0", f"{registers.BAR0_SIZE >> 10} KiB, memory, no side effects of reading"),
        ("each size of the array", f"1 … {registers.MAX_ARRAY_SIZE}"),
        ("program image", f"at most {MAX_IMAGE_BYTES >> 20} MiB"),
        ("firmware image", f"at most {MAX_FIRMWARE_BYTES >> 20} MiB"),
    ]
    return _table(("", ""), rows)


_PARTS: Final[dict[str, Callable[[], str]]] = {
    "bounds": _bounds,
    "ids": _ids,
    "registers": _registers,
    "codes": _codes,
    "rings": _rings,
    "timing": _timing,
    "ladder": _ladder,
    "firmware": _firmware,
    "flash-codes": _flash_codes,
}


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(remade(path.read_text()))
