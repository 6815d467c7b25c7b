"""The instructions of section CODE, as data: what the gateware executes, and nothing else does.

An instruction has 32 bytes: an operation, what it waits for, and operands at fixed places. Three
units execute them at the same time, each its own in the order of the program:

- the **load** unit moves DRAM to the buffers,
- the **execute** unit computes from buffers to buffers,
- the **store** unit moves the activation buffer to DRAM.

What must not overtake is told by tokens: an instruction that has ``signal`` for a unit gives it a
token when it is done, and one that has ``wait`` for a unit takes one that this unit has given to
its own before it begins. There are up to 255 of each kind. (Decoupled access and execution: Smith,
"Decoupled Access/Execute Computer Architectures", 1982.)

**Lanes.** The array makes ``tp`` pixels at a time: it has as many lanes, each with multipliers
and a bank of the activation buffer of its own. All lanes do the same at the same addresses of
their banks; only where a lane's part of a tensor begins differs (:data:`PLANE`). So whatever a lane
reads has to be in its own bank, pixels that several lanes read in each of theirs.

**Activation buffer.** A bank has words of ``ti`` bytes, the same channel block of one pixel:
channels ``ti·b … ti·b + ti - 1``. A pixel takes one word for each block, side by side; of s16 two,
the low bytes before the high ones. Channels beyond the tensor's last are zero when they are loaded.

**Weight buffer.** It has words of ``ti·to`` bytes, which every lane reads. In a word of weights
byte ``i·to + o`` is for input channel i and output channel o. Parameters of output channels are
:data:`CHANNEL` records in a word, one after the other.

Addresses in buffers are counted in words and wrap at the buffer's end. Addresses in DRAM are
counted in bytes from the beginning of the bank, those of :attr:`Opcode.LOAD_WEIGHTS` from the
beginning of section PACKED; what lies outside is a fault (``Fault.INSTRUCTION``), as is an
operation that there is not. Counts of 0 do nothing at all.

:mod:`edged.npu.simulator` executes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from edged.npu.regmap import Bits, Code, Item, Record

__all__ = [
    "ARRAY_CHANNELS",
    "ARRAY_PIXELS",
    "CHANNEL",
    "HEAD",
    "INSTRUCTIONS",
    "INSTRUCTION_BYTES",
    "MAX_TOKENS",
    "Flag",
    "Instruction",
    "Opcode",
    "Unit",
    "unit_of",
]

INSTRUCTION_BYTES: Final = 32
ARRAY_CHANNELS: Final = (8, 16, 32)
"""What ``ti`` and ``to`` may be of a device that executes instructions."""
ARRAY_PIXELS: Final = (1, 2, 4)
"""What ``tp`` may be."""
MAX_TOKENS: Final = 255
"""Tokens of one unit for another that are not taken yet; one more is a fault."""


class Unit(Code):
    """A unit; in ``wait`` and ``signal`` its bit is ``1 << value``."""

    LOAD = 0, "Moves DRAM to the buffers."
    EXECUTE = 1, "Computes from buffers to buffers."
    STORE = 2, "Moves the activation buffer to DRAM."


class Opcode(Code):
    """What an instruction does."""

    END = 0, "Wait until every unit is idle; the run is done."
    SYNC = 1, "Wait until every unit is idle before the next instruction is looked at."
    LOAD_PLANE = 2, "Set what LOAD moves from."
    LOAD = 3, "Copy pixels of the plane from DRAM to the banks of all lanes."
    LOAD_WEIGHTS = 4, "Copy from section PACKED to the weight buffer."
    LOAD_MATRIX = (
        5,
        "Copy rows of a tensor in DRAM to the weight buffer, as the weights of one block of output"
        " channels: row k becomes input channel k. What is beyond rows and columns becomes zero.",
    )
    FRAME = 6, "Set the loops of what is executed."
    RESULT = 7, "Set types and bounds of what is executed, and how the second operand is walked."
    CONV = (
        8,
        "For each block of `to` output channels, row and column: the sum over kernel rows, kernel"
        " columns and input blocks of a word of activations times a word of weights; then add the"
        " bias and round. The weight buffer has a word of parameters and the words of weights,"
        " kernel rows outermost, for one block after the other. Output channel n goes to byte"
        " n mod ti of word n div ti.",
    )
    DEPTHWISE = (
        9,
        "Likewise, for each block of `ti` channels, of each channel by itself. The weight buffer"
        " has for each block a word of parameters and the `ti` weights of each position of the"
        " kernel, one after the other, up to the end of a word.",
    )
    POOL = 10, "Of each channel by itself the maximum or the mean of the window."
    VECTOR = 11, "Elements by themselves, or with those of a second operand."
    TABLE = (
        12,
        "Look each element up. The weight buffer has for each block the `ti` low bytes of entry 0,"
        " of entry 1 and so on, 256 of them, and then the high bytes if the result is s16; with"
        " SHARED one table for all channels: 256 low bytes and 256 high ones.",
    )
    STORE_PLANE = 13, "Set what STORE moves to."
    STORE = 14, "Copy pixels from the banks of all lanes to the plane in DRAM."


class Flag(Bits):
    """Bits of ``flags``; each is for the operations that its text names."""

    FIRST = 1, "CONV: begin with sums of zero, not with those of the CONV before."
    LAST = (
        2,
        "CONV: round and write the sums; otherwise they are kept, and the frame has one row, one"
        " column and one block.",
    )
    SHARED = 4, "POOL, VECTOR: one word of parameters for all blocks. TABLE: one table."
    MAXIMUM = 8, "POOL: the maximum, for which there are no parameters; otherwise the mean."
    ADD = 16, "VECTOR: the sum of both operands."
    MULTIPLY = 32, "VECTOR: the product. Neither: the first operand, rescaled."
    SPREAD = 64, "VECTOR: channel 0 of the second operand's word is taken for all channels."
    OFFSET = (
        128,
        "LOAD_MATRIX: the highest bit of each byte is inverted, which takes 128 away from a u8.",
    )


HEAD: Final = (
    Item("op", "u8", "An `Opcode`."),
    Item("wait", "u8", "Units whose token it takes."),
    Item("signal", "u8", "Units to which it gives a token."),
    Item("flags", "u8", "Bits of `Flag`."),
)
"""What each instruction begins with."""


def _instruction(name: str, text: str, *items: Item) -> Record:
    return Record(name, INSTRUCTION_BYTES, text, (*HEAD, *items))


_PLANE: Final = (
    Item(
        "height", "u16", "Rows of the plane: pixels outside are not moved, but filled in by LOAD."
    ),
    Item("width", "u16", "Columns of the plane."),
    Item("row_bytes", "u32", "In DRAM from one row to the next."),
    Item("pixel_bytes", "u32", "In DRAM from one column to the next."),
    Item("lanes_across", "u8", "Lane p has the part in row p div this, column p mod this; not 0."),
    Item("wide", "u8", "1: the elements are s16."),
    Item("fill", "u16", "LOAD: what elements outside of the plane are; u8 and s8, the low byte."),
    Item("lane_rows", "u16", "Rows from the part of one lane to that of the lane below."),
    Item("lane_columns", "u16", "Columns to the lane to the right."),
    Item("buffer_row", "u16", "In the bank, words from one row to the next."),
    Item("buffer_pixel", "u16", "In the bank, words from one column to the next."),
)
_MOVE: Final = (
    Item("address", "u32", "In DRAM, of the first byte of the plane's pixel (0, 0)."),
    Item("buffer", "u32", "Word of the bank of the first pixel."),
    Item("row", "s16", "Row of the plane of lane 0's first pixel."),
    Item("column", "s16", "Its column."),
    Item("rows", "u16", "Rows that each lane moves."),
    Item("columns", "u16", "Columns that each lane moves."),
    Item("bytes", "u32", "Bytes of each pixel that are moved; even for s16."),
)
_WORDS: Final = (
    Item("source", "u32", "Word of the bank of the first operand."),
    Item("target", "u32", "Word of the bank of the result."),
    Item("weights", "u32", "Word of the weight buffer."),
    Item("second", "u32", "VECTOR: word of the bank of the second operand."),
)

INSTRUCTIONS: Final[dict[Opcode, Record]] = {
    Opcode.END: _instruction("end", "END."),
    Opcode.SYNC: _instruction("sync", "SYNC."),
    Opcode.LOAD_PLANE: _instruction("load_plane", "LOAD_PLANE.", *_PLANE),
    Opcode.LOAD: _instruction("load", "LOAD.", *_MOVE),
    Opcode.LOAD_WEIGHTS: _instruction(
        "load_weights",
        "LOAD_WEIGHTS.",
        Item("address", "u32", "In section PACKED; a multiple of 64."),
        Item("buffer", "u32", "Word of the weight buffer."),
        Item("words", "u32", "Words of the weight buffer."),
    ),
    Opcode.LOAD_MATRIX: _instruction(
        "load_matrix",
        "LOAD_MATRIX.",
        Item("address", "u32", "In DRAM, of the first byte."),
        Item("buffer", "u32", "Word of the weight buffer."),
        Item("row_bytes", "u32", "In DRAM from one row to the next."),
        Item("rows", "u16", "Rows, one for each input channel."),
        Item("columns", "u16", "Bytes of each row, one for each output channel; at most `to`."),
    ),
    Opcode.FRAME: _instruction(
        "frame",
        "FRAME: steps are words of the bank.",
        Item("rows", "u16", "Of the result, for each lane."),
        Item("columns", "u16", "Likewise."),
        Item("blocks", "u16", "Of channels of the result: CONV, of `to`; otherwise of `ti`."),
        Item("source_row", "u16", "Step of the first operand for each row of the result."),
        Item("source_column", "u16", "For each column of the result."),
        Item("source_block", "u16", "For each block of the result; CONV has no use for it."),
        Item("target_row", "u16", "Step of the result from row to row."),
        Item("target_column", "u16", "From column to column."),
        Item("target_block", "u16", "From block to block; CONV has no use for it."),
        Item("kernel_rows", "u16", "CONV, DEPTHWISE, POOL: rows of the window."),
        Item("kernel_columns", "u16", "Its columns."),
        Item("kernel_blocks", "u16", "CONV: blocks of input channels."),
        Item("kernel_row", "u16", "Step of the first operand from row to row of the window."),
        Item("kernel_column", "u16", "From column to column of the window."),
    ),
    Opcode.RESULT: _instruction(
        "result",
        "RESULT.",
        Item("source_type", "u8", "An `ElementType`, of the first operand."),
        Item("second_type", "u8", "Of the second."),
        Item("target_type", "u8", "Of the result."),
        Item("reserved", "u8", "Zero."),
        Item("lo", "s16", "Lower bound of the result."),
        Item("hi", "s16", "Upper bound."),
        Item("multiplier", "u32", "POOL, mean: what the sum is multiplied with, up to 2^24."),
        Item("second_row", "u16", "Step of the second operand from row to row."),
        Item("second_column", "u16", "From column to column."),
        Item("second_block", "u16", "From block to block."),
    ),
    Opcode.CONV: _instruction("conv", "CONV.", *_WORDS[:3]),
    Opcode.DEPTHWISE: _instruction("depthwise", "DEPTHWISE.", *_WORDS[:3]),
    Opcode.POOL: _instruction("pool", "POOL.", *_WORDS[:3]),
    Opcode.VECTOR: _instruction("vector", "VECTOR.", *_WORDS),
    Opcode.TABLE: _instruction("table", "TABLE.", *_WORDS[:3]),
    Opcode.STORE_PLANE: _instruction("store_plane", "STORE_PLANE.", *_PLANE),
    Opcode.STORE: _instruction("store", "STORE.", *_MOVE),
}
"""The operands of each operation."""

CHANNEL: Final = Record(
    "channel",
    8,
    "The parameters of a channel.",
    (
        Item("bias", "s32", "CONV, DEPTHWISE: added to the sum."),
        Item("shift", "u8", "By how many places the result is shifted right, 0 … 47."),
        Item("left", "u8", "VECTOR: by how many the first operand is shifted left, 0 … 14."),
        Item("second_left", "u8", "ADD: likewise the second one."),
        Item("reserved", "u8", "Zero."),
    ),
)

_UNITS: Final = {
    Unit.LOAD: (Opcode.LOAD_PLANE, Opcode.LOAD, Opcode.LOAD_WEIGHTS, Opcode.LOAD_MATRIX),
    Unit.EXECUTE: (
        Opcode.FRAME,
        Opcode.RESULT,
        Opcode.CONV,
        Opcode.DEPTHWISE,
        Opcode.POOL,
        Opcode.VECTOR,
        Opcode.TABLE,
    ),
    Unit.STORE: (Opcode.STORE_PLANE, Opcode.STORE),
}
_UNIT_OF: Final = {opcode: unit for unit, opcodes in _UNITS.items() for opcode in opcodes}


def unit_of(opcode: Opcode) -> Unit | None:
    """The unit that executes *opcode*; None of END and SYNC, which the sequencer does itself."""
    return _UNIT_OF.get(opcode)


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction as values.

    Attributes:
        operands: by the names of the operation's record; what is left out is 0.
        wait, signal: bits of units.
    """

    op: Opcode
    operands: dict[str, int]
    wait: int = 0
    signal: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """Its 32 bytes.

        Raises:
            KeyError: the operation has no such operand.
            struct.error: an operand that does not fit into its field.
        """
        record = INSTRUCTIONS[self.op]
        names = [item.name for item in record.items]
        if unknown := self.operands.keys() - set(names[len(HEAD) :]):
            raise KeyError(f"{self.op.name} has no {', '.join(sorted(unknown))}")
        head = (self.op, self.wait, self.signal, self.flags)
        values = (self.operands.get(name, 0) for name in names[len(HEAD) :])
        return struct.pack(record.format, *head, *values)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The instruction with these 32 bytes.

        Raises:
            ValueError: there is no such operation.
        """
        op = Opcode(data[0])
        record = INSTRUCTIONS[op]
        _, wait, signal, flags, *values = struct.unpack(record.format, data)
        names = [item.name for item in record.items[len(HEAD) :]]
        return cls(op, dict(zip(names, values, strict=True)), wait, signal, flags)
