"""The tables of docs/board-vendors.md and docs/npu.md: ``make docs`` writes them.

They are made from edged/npu/regmap.py and edged/npu/instructions.py.

python packaging/board_vendors.py docs/board-vendors.md docs/npu.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from edged.device import Step
from edged.discovery import KNOWN
from edged.npu import instructions, regmap
from edged.npu.regmap import Access, Bits, Code, Guard, Item, Record, Register, Timing

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


def _of(kind: type[Code] | type[Bits], head: str = "value") -> str:
    """What each value of a code, or each bit, means."""
    return _table((head, "name", ""), [(f"`{int(v)}`", f"`{v.name}`", v.text) for v in kind])


def _block(block: type[Register]) -> str:
    digits = 4 if block is regmap.Reg else 2
    rows = [
        (
            f"`0x{register:0{digits}x}`",
            f"`{register.name}`",
            register.bits,
            register.access.value,
            _writers(register),
            _reset(register),
            register.text,
        )
        for register in block
    ]
    return _table(("offset", "name", "bits", "access", "written by", "reset", ""), rows)


def _reset(register: Register) -> str:
    if register.reset is None:
        return ""
    return f"`{register.reset:#x}`" + ("" if register.soft else " ¹")


def _writers(register: Register) -> str:
    if not register.writable:
        return ""
    parts = [register.guard.value]
    parts += [
        f"{guard.value}: {'0' if value == 0 else register.codes and register.codes(value).name}"
        for value, guard in register.guard_of.items()
    ]
    return "; ".join(parts) + (", takes the queue" if register.takes else "")


def _registers() -> str:
    where = {
        regmap.Reg: "Once",
        regmap.Queue: "For each of {count} queues, {stride:#x} bytes apart from {base:#x} on",
        regmap.Bank: "For each of {count} banks, {stride:#x} bytes apart from {base:#x} on",
        regmap.Flash: "Flash, from {base:#x} on",
    }
    parts = []
    for block, title in where.items():
        title = title.format(count=block.count, stride=block.stride, base=block.base)
        parts.append(f"{title}:\n\n{_block(block)}")
    return "\n".join(parts)


def _guards() -> str:
    return (
        _table(("access", ""), [(access.value, access.text) for access in Access])
        + "\n"
        + _table(("written by", ""), [(guard.value, guard.text) for guard in Guard])
    )


def _several(kinds: Iterable[tuple[str, type[Code] | type[Bits]]]) -> str:
    return "\n".join(f"`{title}`:\n\n{_of(kind)}" for title, kind in kinds)


def _codes() -> str:
    return _several(
        (
            ("STATE", regmap.State),
            ("COMMAND", regmap.Command),
            ("RESET_CAUSE", regmap.ResetCause),
            ("FAULT_CODE", regmap.Fault),
            ("CAPABILITIES", regmap.Capability),
            ("INTERRUPT_ENABLE, _PENDING, _ACK", regmap.Interrupt),
            ("Bank.STATUS", regmap.BankStatus),
            ("Queue.CONTROL", regmap.QueueControl),
        )
    )


def _flash_codes() -> str:
    return _several(
        (
            ("Flash.COMMAND", regmap.FlashCommand),
            ("Flash.STATUS", regmap.FlashStatus),
            ("Flash.REGION", regmap.FirmwareKind),
        )
    )


def _layout(record: Record) -> str:
    return f"{record.size} bytes.\n\n" + _fields(record.items, 0)


def _fields(items: Iterable[Item], offset: int) -> str:
    rows = []
    for item in items:
        rows.append((offset, item.nbytes, f"`{item.name}`", item.text))
        offset += item.nbytes
    return _table(("offset", "bytes", "field", ""), rows)


def _rings() -> str:
    return (
        f"A descriptor, {_layout(regmap.DESCRIPTOR)}\n"
        f"A completion, {_layout(regmap.COMPLETION)}\n"
        f"Operations:\n\n{_of(regmap.Operation, 'op')}\n"
        f"Flags of a descriptor:\n\n{_of(regmap.DescriptorFlag, 'bit')}\n"
        f"Statuses of a completion:\n\n{_of(regmap.Status, 'status')}"
    )


def _image() -> str:
    return (
        f"Header, {_layout(regmap.IMAGE_HEADER)}\n"
        f"Entry of the table of sections, {_layout(regmap.IMAGE_SECTION)}\n"
        f"Sections:\n\n{_of(regmap.Section, 'kind')}\n"
        f"An entry point, {_layout(regmap.IMAGE_ENTRY)}\n"
        f"A tensor, {_layout(regmap.IMAGE_TENSOR)}\n"
        f"Element types:\n\n{_of(regmap.ElementType)}\n"
        f"A layer, {_layout(regmap.IMAGE_LAYER)}\n"
        f"An operand, {_layout(regmap.IMAGE_OPERAND)}\n"
        f"A loop, {_layout(regmap.IMAGE_LOOP)}\n"
        f"Layers compute:\n\n{_of(regmap.LayerOp, 'op')}"
    )


def _instructions() -> str:
    parts = [
        _several(
            (
                (
                    "Units; the bit of a unit in `wait` and `signal` is 1 << value",
                    instructions.Unit,
                ),
                ("Operations", instructions.Opcode),
                ("Flags", instructions.Flag),
            )
        ),
        f"Parameters of a channel, {_layout(instructions.CHANNEL)}",
        "The first four bytes are the same in all:\n\n" + _fields(instructions.HEAD, 0),
    ]
    for opcodes, record in _alike():
        names = ", ".join(f"`{opcode.name}`" for opcode in opcodes)
        head = sum(item.nbytes for item in instructions.HEAD)
        items = record.items[len(instructions.HEAD) :]
        parts.append(f"{names}:\n\n{_fields(items, head)}" if items else f"{names} have no more.\n")
    return "\n".join(parts)


def _alike() -> list[tuple[list[instructions.Opcode], Record]]:
    """Operations that have the same operands."""
    found: list[tuple[list[instructions.Opcode], Record]] = []
    for opcode, record in instructions.INSTRUCTIONS.items():
        others = [opcodes for opcodes, other in found if other.items == record.items]
        if others:
            others[0].append(opcode)
        else:
            found.append(([opcode], record))
    return found


def _timing() -> str:
    rows = [(bound.text, _seconds(bound.seconds)) for bound in Timing]
    return _table(("what", "edged waits"), rows)


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"


def _ladder() -> str:
    rows = [(number, step.value, step.text) for number, step in enumerate(Step, 1)]
    return _table(("", "step", ""), rows)


def _ids() -> str:
    rows = [
        (f"`{vendor:04x}:{device:04x}`", what) for (vendor, device), what in sorted(KNOWN.items())
    ]
    return _table(("PCI id", ""), rows)


def _bounds() -> str:
    rows = [
        ("MAGIC", f"`{regmap.MAGIC:#010x}`, the bytes `EDGE`"),
        ("ABI", regmap.ABI),
        ("key of the golden region", f"`{regmap.FLASH_KEY:#010x}`"),
        ("management queue", regmap.QUEUE_MANAGEMENT),
        (
            "data queue",
            f"{regmap.QUEUE_DATA}; refuses LOAD_IMAGE, ACTIVATE_BANK and WRITE_FLASH with"
            " BAD_OPERATION",
        ),
        ("PCI class", f"`{regmap.PCI_CLASS:#08x}`"),
        ("BAR 0", f"{regmap.BAR0_SIZE >> 10} KiB, memory, no side effects of reading"),
        ("each size of the array", f"1 … {regmap.MAX_ARRAY_SIZE}"),
        ("program image", f"at most {regmap.MAX_IMAGE_BYTES >> 20} MiB"),
        ("its entry points", f"at most {regmap.MAX_ENTRIES}"),
        ("firmware image", f"at most {regmap.MAX_FIRMWARE_BYTES >> 20} MiB"),
        ("one WRITE_FLASH", f"at most {regmap.MAX_FLASH_WRITE >> 10} KiB"),
    ]
    return _table(("", ""), rows)


_PARTS: Final[dict[str, Callable[[], str]]] = {
    "bounds": _bounds,
    "ids": _ids,
    "registers": _registers,
    "guards": _guards,
    "codes": _codes,
    "rings": _rings,
    "image": _image,
    "instructions": _instructions,
    "timing": _timing,
    "ladder": _ladder,
    "firmware": lambda: _layout(regmap.FIRMWARE_HEADER),
    "flash-codes": _flash_codes,
}


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(remade(path.read_text()))
