"""Random programs, one operation each: a tensor is loaded, something is computed, and the whole
activation buffer is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.npu.instructions import Flag, Instruction, Opcode
from edged.npu.regmap import ElementType
from firmware.rtl.parameters import Parameters
from firmware.tests.machine import Program, encoded

__all__ = ["KINDS", "program"]

KINDS = (
    "move",
    "conv",
    "conv s16",
    "conv split",
    "depthwise",
    "maximum",
    "mean",
    "rescale",
    "add",
    "multiply",
    "table",
    "matrix",
)
"""What :func:`program` makes programs of."""
_U8, _S8, _S16 = ElementType.U8, ElementType.S8, ElementType.S16
_DRAM = 1 << 17


@dataclass
class _Writer:
    """The random choices of a program, and its instructions."""

    parameters: Parameters
    random: np.random.Generator
    code: list[Instruction]

    def number(self, low: int, high: int) -> int:
        """One of *low* to *high*, both inclusive."""
        return int(self.random.integers(low, high + 1))

    def one_of(self, *values: int) -> int:
        return int(self.random.choice(values))

    def add(self, op: Opcode, flags: int = 0, **operands: int) -> None:
        self.code.append(Instruction(op, operands, flags=flags))

    def sync(self) -> None:
        self.add(Opcode.SYNC)


def program(kind: str, parameters: Parameters, seed: int) -> Program:
    """A program of this *kind*; what it computes depends on the bytes in DRAM and the *seed*."""
    random = np.random.default_rng([KINDS.index(kind), seed])
    writer = _Writer(parameters, random, [])
    dram = random.integers(0, 256, _DRAM, np.uint8)
    packed = _packed(writer)
    _load(writer)
    _load_weights(writer)
    for _ in range(writer.number(1, 3)):
        _compute(kind, writer)
        writer.sync()
    _store(writer)
    writer.add(Opcode.END)
    stalls = writer.one_of(0, seed + 1)
    return Program(encoded(writer.code), dram, packed, seed=stalls)


def _packed(writer: _Writer) -> bytes:
    """The weight buffer's contents: bytes that are sane as parameters at every place."""
    parameters = writer.parameters
    data = writer.random.integers(0, 256, parameters.weight_buffer, np.uint8).reshape(-1, 8)
    data[:, 2] %= 2  # a bias of 17 bits or its complement
    data[:, 3] = np.where(data[:, 2] % 2, 0xFF, 0)
    data[:, 2] = data[:, 3]
    data[:, 4] %= writer.one_of(4, 12, 48)
    data[:, 5:7] %= 15
    return data.tobytes()


def _load_weights(writer: _Writer) -> None:
    words = writer.parameters.weight_words
    half = words // 2
    start = writer.number(0, words - 1)
    writer.add(Opcode.LOAD_WEIGHTS, address=0, buffer=start, words=half)
    word = writer.parameters.array.ti * writer.parameters.array.to
    writer.add(
        Opcode.LOAD_WEIGHTS, address=half * word, buffer=(start + half) % words, words=words - half
    )
    writer.sync()


def _plane(writer: _Writer, size: int) -> dict[str, int]:
    lanes = writer.parameters.array.tp
    pixel = size + writer.one_of(0, 0, writer.number(0, 70))
    width = writer.number(1, 9)
    return {
        "height": writer.number(1, 9),
        "width": width,
        "row_bytes": width * pixel + writer.number(0, 40),
        "pixel_bytes": pixel,
        "lanes_across": writer.number(1, lanes),
        "lane_rows": writer.number(0, 4),
        "lane_columns": writer.number(0, 4),
    }


def _load(writer: _Writer) -> None:
    """Fill the banks with loads of all kinds; with zeros first, as the simulator has them."""
    array, words = writer.parameters.array, writer.parameters.activation_words
    writer.add(Opcode.LOAD_PLANE, lanes_across=1)
    writer.add(Opcode.LOAD, rows=1, columns=1, bytes=words * array.ti)
    for _ in range(writer.number(1, 4)):
        size = writer.one_of(writer.number(1, 20), writer.number(1, 200))
        plane = _plane(writer, size)
        writer.add(
            Opcode.LOAD_PLANE,
            **plane,
            wide=writer.number(0, 1),
            fill=writer.number(0, 65535),
            buffer_row=writer.number(0, 300),
            buffer_pixel=writer.number(0, 40),
        )
        writer.add(
            Opcode.LOAD,
            address=writer.number(0, 20000),
            buffer=writer.number(0, 5000),
            row=writer.number(-3, 3),
            column=writer.number(-3, 3),
            rows=writer.number(0, 7),
            columns=writer.number(1, 7),
            bytes=size,
        )
    # Mostly also each word, so that there are no zeros.
    part = min(words * array.ti, 8192)
    writer.add(
        Opcode.LOAD_PLANE,
        height=array.tp,
        width=1,
        row_bytes=part,
        lanes_across=1,
        lane_rows=1,
        buffer_row=0,
    )
    if writer.number(0, 3):
        writer.add(
            Opcode.LOAD, address=writer.number(0, 999), buffer=0, rows=1, columns=1, bytes=part
        )
    writer.sync()


def _store(writer: _Writer) -> None:
    """A store of some kind, and then the whole buffer."""
    size = writer.one_of(writer.number(1, 20), writer.number(1, 200))
    plane = _plane(writer, size)
    writer.add(
        Opcode.STORE_PLANE,
        **plane,
        wide=writer.number(0, 1),
        buffer_row=writer.number(0, 300),
        buffer_pixel=writer.number(0, 40),
    )
    writer.add(
        Opcode.STORE,
        address=writer.number(0, 20000),
        buffer=writer.number(0, 5000),
        row=writer.number(-3, 3),
        column=writer.number(-3, 3),
        rows=writer.number(0, 7),
        columns=writer.number(1, 7),
        bytes=size,
    )
    array, words = writer.parameters.array, writer.parameters.activation_words
    writer.add(
        Opcode.STORE_PLANE,
        height=array.tp,
        width=1,
        row_bytes=words * array.ti,
        lanes_across=1,
        lane_rows=1,
    )
    writer.add(Opcode.STORE, address=_DRAM // 2, rows=1, columns=1, bytes=words * array.ti)


def _frame(writer: _Writer, **fixed: int) -> None:
    frame = {
        "rows": writer.number(1, 4),
        "columns": writer.number(1, 5),
        "blocks": writer.number(1, 3),
        "kernel_rows": writer.number(1, 3),
        "kernel_columns": writer.number(1, 3),
        "kernel_blocks": writer.number(1, 3),
        "source_row": writer.number(0, 60),
        "source_column": writer.number(0, 20),
        "source_block": writer.number(0, 4),
        "kernel_row": writer.number(0, 60),
        "kernel_column": writer.number(0, 20),
        # Results that lie apart from each other, and from what is read.
        "target_row": 5 * 12,
        "target_column": 12,
        "target_block": 2,
    }
    writer.add(Opcode.FRAME, **{**frame, **fixed})


def _result(writer: _Writer, source: int, second: int = _U8) -> None:
    target = writer.one_of(_U8, _S8, _S16)
    low, high = {_U8: (0, 255), _S8: (-128, 127), _S16: (-32768, 32767)}[ElementType(target)]
    narrow = writer.number(0, 1) * (high - low) // 5
    writer.add(
        Opcode.RESULT,
        source_type=source,
        second_type=second,
        target_type=target,
        lo=low + narrow,
        hi=high - narrow,
        multiplier=writer.number(1, 1 << 24),
        second_row=writer.number(0, 60),
        second_column=writer.number(0, 20),
        second_block=writer.number(0, 4),
    )


def _compute(kind: str, writer: _Writer) -> None:
    array, words = writer.parameters.array, writer.parameters.activation_words
    half = words // 2
    where = {
        # What is read is in the lower half of the bank and what is written in the upper one.
        "source": writer.number(0, max(half - 600, 0)),
        "target": half + writer.number(0, half - 1 - min(300, half - 1)),
        "weights": writer.number(0, 3 * writer.parameters.weight_words),
    }
    narrow = writer.one_of(_U8, _S8)
    any_type = writer.one_of(_U8, _S8, _S16)
    shared = writer.one_of(0, Flag.SHARED)
    if kind in ("conv", "conv s16"):
        _frame(writer)
        _result(writer, _S16 if kind == "conv s16" else narrow)
        writer.add(Opcode.CONV, Flag.FIRST | Flag.LAST, **where)
    elif kind == "conv split":
        _frame(writer, rows=1, columns=1, blocks=1)
        _result(writer, any_type)
        for flags in (Flag.FIRST, 0, 0, Flag.LAST):
            where["source"] = writer.number(0, max(half - 600, 0))
            writer.add(Opcode.CONV, flags, **where)
    elif kind == "depthwise":
        _frame(writer, kernel_columns=writer.number(1, 5))
        _result(writer, any_type)
        writer.add(Opcode.DEPTHWISE, **where)
    elif kind in ("maximum", "mean"):
        _frame(writer)
        _result(writer, any_type)
        writer.add(Opcode.POOL, Flag.MAXIMUM if kind == "maximum" else shared, **where)
    elif kind in ("rescale", "add", "multiply"):
        _frame(writer)
        _result(writer, any_type, writer.one_of(_U8, _S8, _S16))
        what = {"rescale": 0, "add": Flag.ADD, "multiply": Flag.MULTIPLY}[kind]
        spread = writer.one_of(0, Flag.SPREAD) if what else 0
        second = writer.number(0, max(half - 600, 0))
        writer.add(Opcode.VECTOR, what | spread | shared, second=second, **where)
    elif kind == "table":
        _frame(writer)
        _result(writer, narrow)
        writer.add(Opcode.TABLE, shared, **where)
    elif kind == "matrix":
        _load_weights(writer)  # again: the matrix before may lie where parameters are read
        size = array.ti * writer.number(1, 3) - writer.number(0, 5)
        buffer = writer.number(0, writer.parameters.weight_words - 1)
        _frame(
            writer, blocks=1, kernel_rows=1, kernel_columns=1, kernel_blocks=-(-size // array.ti)
        )
        _result(writer, any_type)
        writer.add(
            Opcode.LOAD_MATRIX,
            writer.one_of(0, Flag.OFFSET),
            address=writer.number(0, 20000),
            buffer=buffer + 1,
            row_bytes=writer.number(0, 300),
            rows=size,
            columns=writer.number(0, array.to + 2),
        )
        writer.sync()
        where["weights"] = buffer
        writer.add(Opcode.CONV, Flag.FIRST | Flag.LAST, **where)
    else:
        assert kind == "move", kind
