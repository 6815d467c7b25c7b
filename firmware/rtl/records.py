"""Records of the contract as layouts of signals."""

from __future__ import annotations

from amaranth import Signal, signed, unsigned
from amaranth.lib import data

from edged.npu.instructions import CHANNEL, INSTRUCTION_BYTES, INSTRUCTIONS, Opcode, Unit
from edged.npu.regmap import Record
from firmware.rtl.ports import ADDRESS_BITS

__all__ = ["CHANNEL_LAYOUT", "ENTRY", "FINISHED", "layout", "operands"]


def layout(record: Record) -> data.Layout:
    """The layout of *record*: its items by name, at the bits that their bytes have."""
    fields = {}
    for item in record.items:
        assert item.count == 1, f"{record.name}.{item.name} is an array"
        bits = 8 * item.nbytes
        shape = signed(bits) if item.kind.startswith("s") else unsigned(bits)
        fields[item.name] = data.Field(shape, 8 * record.offset(item.name))
    return data.FlexibleLayout(8 * record.size, fields)


ENTRY = data.StructLayout({"instruction": 8 * INSTRUCTION_BYTES, "address": ADDRESS_BITS})
"""An instruction in a queue: its bytes, and its device address for those who report faults."""

FINISHED = data.StructLayout({"signal": len(Unit), "address": ADDRESS_BITS})
"""Of an instruction that has been executed: to whom it gives tokens, and its device address."""

CHANNEL_LAYOUT = layout(CHANNEL)


def operands(op: Opcode, entry: Signal) -> data.View:
    """The fields of an *entry*'s instruction, which is an *op*."""
    return data.View(layout(INSTRUCTIONS[op]), entry.instruction)
