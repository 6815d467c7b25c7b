"""The contract with the device as a C header: ``make docs`` writes docs/edged-npu.h.

python packaging/c_header.py docs/edged-npu.h
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edged.npu import instructions, regmap
from edged.npu.regmap import Bits, Code, Item, Record

__all__ = ["header"]

_PREFIX: Final = "EDGED_"
_CONSTANTS: Final = (
    "MAGIC",
    "ABI",
    "PCI_CLASS",
    "BAR0_SIZE",
    "MAX_ARRAY_SIZE",
    "BANKS",
    "NO_BANK",
    "QUEUES",
    "QUEUE_MANAGEMENT",
    "QUEUE_DATA",
    "MAX_LOG2_SIZE",
    "RING_ALIGN",
    "FLASH_KEY",
    "MAX_IMAGE_BYTES",
    "MAX_ENTRIES",
    "MAX_FIRMWARE_BYTES",
    "MAX_FLASH_WRITE",
    "FIRMWARE_VERSION",
)
_TYPES: Final = {
    "u8": "uint8_t",
    "s8": "int8_t",
    "u16": "uint16_t",
    "s16": "int16_t",
    "u32": "uint32_t",
    "s32": "int32_t",
    "u64": "uint64_t",
    "bytes": "uint8_t",
}


def header() -> str:
    """The whole of it."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "/* The contract between edged and its device, made by `make docs`. What each name means"
    yield " * is said in docs/board-vendors.md and docs/npu.md. All values are little endian. */"
    yield "#ifndef EDGED_NPU_H"
    yield "#define EDGED_NPU_H"
    yield ""
    yield "#include <stddef.h>"
    yield "#include <stdint.h>"
    yield ""
    for name in _CONSTANTS:
        yield f"#define {_PREFIX}{name} {getattr(regmap, name):#x}u"
    yield ""
    yield "/* Registers: offsets in BAR 0. Of a block that is there several times, in number n. */"
    for block in regmap.BLOCKS:
        yield ""
        for register in block:
            argument = "(n)" if block.count > 1 else ""
            times = f" + (n) * {block.stride:#x}u" if block.count > 1 else ""
            name = f"{_PREFIX}{_upper(block.__name__)}_{register.name}"
            yield f"#define {name}{argument} ({register.address():#06x}u{times})"
            yield f"#define {name}_BITS {register.bits}"
    for kind in _kinds():
        yield ""
        for value in kind:
            yield f"#define {_PREFIX}{_upper(kind.__name__)}_{value.name} {int(value):#x}u"
    yield ""
    yield "/* How long edged waits, in milliseconds. */"
    for bound in regmap.Timing:
        yield f"#define {_PREFIX}TIMING_{bound.name}_MS {round(bound.seconds * 1000)}u"
    for record in (*regmap.RECORDS, instructions.CHANNEL, *instructions.INSTRUCTIONS.values()):
        yield ""
        yield from _struct(record)
    yield ""
    yield "#endif"


def _kinds() -> list[type[Code] | type[Bits]]:
    return [*Code.__subclasses__(), *Bits.__subclasses__()]


def _upper(name: str) -> str:
    """CamelCase as C's constants are written."""
    return "".join(f"_{c}" if c.isupper() and at else c for at, c in enumerate(name)).upper()


def _struct(record: Record) -> Iterator[str]:
    name = f"edged_{record.name}"
    yield f"struct __attribute__((packed)) {name} {{"
    for item in record.items:
        yield f"    {_TYPES[item.kind]} {item.name}{_array(item)};"
    if padding := record.size - sum(item.nbytes for item in record.items):
        yield f"    uint8_t padding[{padding}];"
    yield "};"
    yield f'_Static_assert(sizeof(struct {name}) == {record.size}, "{name}");'
    for item in record.items:
        at = record.offset(item.name)
        yield f'_Static_assert(offsetof(struct {name}, {item.name}) == {at}, "{item.name}");'


def _array(item: Item) -> str:
    return f"[{item.count}]" if item.count > 1 else ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(header())
