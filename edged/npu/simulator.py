"""The instruction simulator: executes section CODE, slowly and plainly.

With :mod:`edged.npu.numerics`, which says what a layer computes, it is the arbiter of what the
instructions of a program do: a gateware leaves the same bytes in DRAM.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.errors import ImageError
from edged.npu.graph import DType, ProgramImage
from edged.npu.instructions import (
    CHANNEL,
    INSTRUCTION_BYTES,
    MAX_TOKENS,
    Flag,
    Instruction,
    Opcode,
    Unit,
    unit_of,
)
from edged.npu.numerics import shift_round_half_even
from edged.npu.registers import Array

__all__ = ["InstructionError", "Order", "Simulator", "in_program_order", "run"]

_Int64 = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_CHANNEL: Final = np.dtype(
    [(item.name, {"s32": "<i4", "u8": "u1"}[item.kind]) for item in CHANNEL.items]
)

Order = Callable[[Sequence[tuple[int, Unit]]], Unit]
"""Which unit goes on first: takes the place in the program of each unit's next instruction, of
those that need not wait."""


class InstructionError(ImageError):
    """An instruction that a device refuses with ``Fault.INSTRUCTION``, or that waits for ever."""


def in_program_order(ready: Sequence[tuple[int, Unit]]) -> Unit:
    """The order in which the instructions stand."""
    return min(ready)[1]


def run(
    image: ProgramImage,
    inputs: Sequence[npt.NDArray[Any]],
    entry: int = 0,
    order: Order = in_program_order,
) -> list[npt.NDArray[Any]]:
    """Execute the code of an *entry* of *image* on *inputs*, as :func:`edged.npu.numerics.run` does
    its layers.

    Raises:
        InstructionError: a fault.
    """
    program = image.entries[entry]
    simulator = Simulator(
        image.array,
        image.schedule.activation_buffer,
        image.schedule.weight_buffer,
        np.zeros(image.dram_bytes, np.uint8),
        image.packed,
        order,
    )
    for tensor, value in zip(image.chosen(program.inputs), inputs, strict=True):
        data = np.ascontiguousarray(value, tensor.dtype.numpy).reshape(-1).view(np.uint8)
        simulator.dram[tensor.address : tensor.address + tensor.nbytes] = data
    simulator.run(image.code, program.instruction)
    return [
        simulator.dram[tensor.address : tensor.address + tensor.nbytes]
        .view(tensor.dtype.numpy)
        .reshape(tensor.shape)
        for tensor in image.chosen(program.outputs)
    ]


class Simulator:
    """The units, their buffers and DRAM.

    Args:
        activation_buffer, weight_buffer: bytes.
        dram: what a program may use of a bank, [bytes]; it is changed.
        packed: section PACKED.
        order: which of the units goes on where several can. What a program computes must not
            depend on it.
    """

    def __init__(
        self,
        array: Array,
        activation_buffer: int,
        weight_buffer: int,
        dram: _Bytes,
        packed: bytes,
        order: Order = in_program_order,
    ) -> None:
        self.array = array
        self.dram = dram
        self.activations = np.zeros(
            (array.tp, activation_buffer // array.tp // array.ti, array.ti), np.uint8
        )
        self.weights = np.zeros(
            (weight_buffer // array.ti // array.to, array.ti * array.to), np.uint8
        )
        self._packed = np.frombuffer(packed, np.uint8)
        self._order = order
        self._planes: dict[Unit, dict[str, int]] = {}
        self._frame: dict[str, int] = {}
        self._result: dict[str, int] = {}
        self._sums = np.zeros((array.tp, array.to), np.int64)
        self._tokens: dict[tuple[Unit, Unit], int] = {}

    def run(self, code: bytes, first: int = 0) -> int:
        """Execute *code* from instruction *first* on until an END; how many instructions it took.

        Raises:
            InstructionError: a fault.
        """
        queues: dict[Unit, deque[tuple[int, Instruction]]] = {unit: deque() for unit in Unit}
        self._tokens = {(giver, taker): 0 for giver in Unit for taker in Unit}
        at = first
        while True:
            data = code[at * INSTRUCTION_BYTES : (at + 1) * INSTRUCTION_BYTES]
            if len(data) < INSTRUCTION_BYTES:
                raise InstructionError(f"cannot execute instruction {at}: the code ends before it")
            try:
                instruction = Instruction.unpack(data)
            except ValueError as error:
                raise InstructionError(f"cannot execute instruction {at}: {error}") from error
            unit = unit_of(instruction.op)
            if unit is not None:
                queues[unit].append((at, instruction))
            else:
                self._drain(queues)
                if instruction.op is Opcode.END:
                    return at + 1 - first
            at += 1

    def _drain(self, queues: dict[Unit, deque[tuple[int, Instruction]]]) -> None:
        while waiting := [(queue[0][0], unit) for unit, queue in queues.items() if queue]:
            ready = [
                (at, unit) for at, unit in waiting if self._may_begin(unit, queues[unit][0][1])
            ]
            if not ready:
                raise InstructionError(
                    f"cannot execute instruction {min(waiting)[0]}: every unit waits for another"
                )
            unit = self._order(ready)
            at, instruction = queues[unit].popleft()
            for giver in _units(instruction.wait):
                self._tokens[giver, unit] -= 1
            try:
                _EXECUTE[instruction.op](self, instruction)
            except InstructionError as error:
                where = f"cannot execute instruction {at} ({instruction.op.name}): {error}"
                raise InstructionError(where) from error
            for taker in _units(instruction.signal):
                self._tokens[unit, taker] += 1
                if self._tokens[unit, taker] > MAX_TOKENS:
                    raise InstructionError(
                        f"cannot execute instruction {at}: more than {MAX_TOKENS} tokens of"
                        f" {unit.name} for {taker.name}"
                    )

    def _may_begin(self, unit: Unit, instruction: Instruction) -> bool:
        return all(self._tokens[giver, unit] for giver in _units(instruction.wait))

    # Load and store.

    def _set_load_plane(self, instruction: Instruction) -> None:
        self._planes[Unit.LOAD] = instruction.operands

    def _set_store_plane(self, instruction: Instruction) -> None:
        self._planes[Unit.STORE] = instruction.operands

    def _load(self, instruction: Instruction) -> None:
        plane, move = self._plane(Unit.LOAD), instruction.operands
        if not move["bytes"]:
            return
        ti, size = self.array.ti, move["bytes"]
        fill = np.frombuffer(struct.pack("<H", plane["fill"]), np.uint8)
        one = np.resize(fill if plane["wide"] else fill[:1], size)
        for lane in range(self.array.tp):
            addresses, inside = self._pixels(plane, move, lane)
            pixels = np.empty((*inside.shape, size), np.uint8)
            pixels[...] = one
            pixels[inside] = self.dram[self._within(addresses[inside], size)]
            words = _words(pixels, ti, bool(plane["wide"]))
            self.activations[lane, self._buffer(plane, move, words.shape[2])] = words

    def _store(self, instruction: Instruction) -> None:
        plane, move = self._plane(Unit.STORE), instruction.operands
        size = move["bytes"]
        if not size:
            return
        wide = 2 if plane["wide"] else 1
        blocks = -(-size // (self.array.ti * wide))
        for lane in range(self.array.tp):
            addresses, inside = self._pixels(plane, move, lane)
            words = self.activations[lane, self._buffer(plane, move, blocks * wide)]
            rows, columns = inside.shape
            pixels = words.reshape(rows, columns, blocks, wide, self.array.ti).swapaxes(3, 4)
            pixels = pixels.reshape(rows, columns, blocks * self.array.ti * wide)[..., :size]
            self.dram[self._within(addresses[inside], size)] = pixels[inside]

    def _plane(self, unit: Unit) -> dict[str, int]:
        plane = self._planes.get(unit)
        if plane is None or not plane["lanes_across"]:
            raise InstructionError("there is no plane, or one of no lanes")
        return plane

    def _pixels(
        self, plane: dict[str, int], move: dict[str, int], lane: int
    ) -> tuple[_Int64, npt.NDArray[np.bool_]]:
        """The address of each pixel of a *lane*, and whether it is inside of the plane; both
        [rows, columns]."""
        down, across = divmod(lane, plane["lanes_across"])
        y = move["row"] + down * plane["lane_rows"] + np.arange(move["rows"])[:, None]
        x = move["column"] + across * plane["lane_columns"] + np.arange(move["columns"])[None, :]
        inside = (y >= 0) & (y < plane["height"]) & (x >= 0) & (x < plane["width"])
        return move["address"] + y * plane["row_bytes"] + x * plane["pixel_bytes"], inside

    def _within(self, addresses: _Int64, size: int) -> _Int64:
        """The addresses of all bytes of pixels, [pixels, size]."""
        if len(addresses) and addresses.max() + size > len(self.dram):
            raise InstructionError(
                f"it goes to byte {addresses.max() + size} of DRAM, the program has"
                f" {len(self.dram)}"
            )
        return addresses[:, None] + np.arange(size)

    def _buffer(self, plane: dict[str, int], move: dict[str, int], words: int) -> _Int64:
        """The word of each pixel's words, [rows, columns, words]."""
        rows = np.arange(move["rows"])[:, None, None] * plane["buffer_row"]
        columns = np.arange(move["columns"])[None, :, None] * plane["buffer_pixel"]
        return self._wrapped(move["buffer"] + rows + columns + np.arange(words))

    def _load_weights(self, instruction: Instruction) -> None:
        what = instruction.operands
        size = self.weights.shape[1]
        begin, end = what["address"], what["address"] + what["words"] * size
        if end > len(self._packed):
            raise InstructionError(
                f"it goes to byte {end} of section PACKED, there are {len(self._packed)}"
            )
        places = (what["buffer"] + np.arange(what["words"])) % len(self.weights)
        self.weights[places] = self._packed[begin:end].reshape(-1, size)

    def _load_matrix(self, instruction: Instruction) -> None:
        what = instruction.operands
        ti, to = self.array.ti, self.array.to
        rows, columns = what["rows"], min(what["columns"], to)
        words = np.zeros((-(-rows // ti) * ti, to), np.uint8)
        if rows and columns:
            addresses = what["address"] + np.arange(rows, dtype=np.int64) * what["row_bytes"]
            words[:rows, :columns] = self.dram[self._within(addresses, columns)]
            if instruction.flags & Flag.OFFSET:
                words[:rows, :columns] ^= 0x80
        words = words.reshape(-1, ti * to)
        self.weights[(what["buffer"] + np.arange(len(words))) % len(self.weights)] = words

    # Execute.

    def _set_frame(self, instruction: Instruction) -> None:
        self._frame = instruction.operands

    def _set_result(self, instruction: Instruction) -> None:
        self._result = instruction.operands

    def _conv(self, instruction: Instruction) -> None:
        frame, where, to = self._framed(), instruction.operands, self.array.to
        first, last = instruction.flags & Flag.FIRST, instruction.flags & Flag.LAST
        shape = frame["rows"], frame["columns"], frame["blocks"]
        if shape != (1, 1, 1) and not (first and last):
            raise InstructionError(f"a frame of {shape} has no sums from one CONV to the next")
        places = self._window(where["source"]) + self._width * np.arange(frame["kernel_blocks"])
        values = self._values(places, self._result["source_type"])
        taps = frame["kernel_rows"] * frame["kernel_columns"] * frame["kernel_blocks"]
        if 0 in (*shape, taps):
            return
        seen = values.reshape(-1, taps * self.array.ti).astype(np.float64)
        for block in range(frame["blocks"]):
            at = where["weights"] + block * (1 + taps)
            words = self._weight_words(at + 1, taps).view(np.int8)
            sums = (seen @ words.reshape(-1, to).astype(np.float64)).astype(np.int64)
            sums = sums.reshape(self.array.tp, frame["rows"], frame["columns"], to)
            if not first:
                sums = sums + self._sums[:, None, None]
            sums = _wrapped_32(sums)
            if not last:
                self._sums = sums[:, 0, 0]
                return
            channels = self._channels(at)[:to]
            rounded = shift_round_half_even(sums + channels["bias"], channels["shift"])
            for byte in range(0, to, self.array.ti):
                channel = block * to + byte
                self._write(
                    self._target(where["target"]) + self._result_width * (channel // self.array.ti),
                    rounded[..., byte : byte + self.array.ti],
                    channel % self.array.ti,
                )

    def _depthwise(self, instruction: Instruction) -> None:
        frame, where, ti = self._framed(), instruction.operands, self.array.ti
        window = frame["kernel_rows"] * frame["kernel_columns"]
        if not window:
            return
        words = -(-window // self.array.to)
        for block in range(frame["blocks"]):
            values = self._seen(where["source"], block)
            at = where["weights"] + block * (1 + words)
            weights = self._weight_words(at + 1, words).view(np.int8).reshape(-1)[: window * ti]
            sums = _wrapped_32((values * weights.reshape(window, ti)).sum(axis=3))
            channels = self._channels(at)[:ti]
            rounded = shift_round_half_even(sums + channels["bias"], channels["shift"])
            self._write(self._block_target(where["target"], block), rounded)

    def _pool(self, instruction: Instruction) -> None:
        frame, where = self._framed(), instruction.operands
        if 0 in (frame["rows"], frame["columns"], frame["kernel_rows"], frame["kernel_columns"]):
            return
        for block in range(frame["blocks"]):
            values = self._seen(where["source"], block)
            if instruction.flags & Flag.MAXIMUM:
                result = values.max(axis=3)
            else:
                channels = self._parameters(instruction, block)
                total = values.sum(axis=3) * self._result["multiplier"]
                result = shift_round_half_even(total, channels["shift"])
            self._write(self._block_target(where["target"], block), result)

    def _vector(self, instruction: Instruction) -> None:
        frame, where, result = self._framed(), instruction.operands, self._result
        rows = np.arange(frame["rows"])[:, None]
        columns = np.arange(frame["columns"])[None, :]
        for block in range(frame["blocks"]):
            channels = self._parameters(instruction, block)
            places = self._step(where["source"], "source") + block * frame["source_block"]
            value = self._values(places, result["source_type"])
            places = where["second"] + rows * result["second_row"]
            places = places + columns * result["second_column"] + block * result["second_block"]
            second = self._values(places, result["second_type"])
            if instruction.flags & Flag.SPREAD:
                second = second[..., :1]
            if instruction.flags & Flag.MULTIPLY:
                value = value * second
            elif instruction.flags & Flag.ADD:
                value = (value << channels["left"]) + (second << channels["second_left"])
            else:
                value = value << channels["left"]
            value = shift_round_half_even(value, channels["shift"])
            self._write(self._block_target(where["target"], block), value)

    def _table(self, instruction: Instruction) -> None:
        frame, where, ti = self._framed(), instruction.operands, self.array.ti
        shared = bool(instruction.flags & Flag.SHARED)
        wide = self._result["target_type"] == DType.S16
        across = 1 if shared else ti
        size = 256 * across * (2 if wide else 1)
        words = -(-size // self.weights.shape[1])
        for block in range(frame["blocks"]):
            at = where["weights"] + (0 if shared else block * words)
            data = self._weight_words(at, words).reshape(-1)[:size].reshape(-1, 256, across)
            places = self._step(where["source"], "source") + block * frame["source_block"]
            index = self._bank(places)
            chosen = [half[index, 0 if shared else np.arange(ti)] for half in data]
            self._put(self._block_target(where["target"], block), chosen, 0)

    def _framed(self) -> dict[str, int]:
        if not self._frame or not self._result:
            raise InstructionError("there is no FRAME or no RESULT before it")
        return self._frame

    @property
    def _width(self) -> int:
        """Words of a block of the first operand."""
        return 2 if self._result["source_type"] == DType.S16 else 1

    @property
    def _result_width(self) -> int:
        return 2 if self._result["target_type"] == DType.S16 else 1

    def _wrapped(self, places: _Int64) -> _Int64:
        return places % self.activations.shape[1]

    def _bank(self, places: _Int64) -> _Bytes:
        """Words of all lanes, [tp, …, ti]."""
        return self.activations[:, self._wrapped(places)]

    def _values(self, places: _Int64, kind: int) -> _Int64:
        """The elements of words, [tp, …, ti]."""
        low = self._bank(places)
        if kind == DType.S16:
            return low + 256 * self._bank(places + 1).view(np.int8).astype(np.int64)
        return low.view(np.int8 if kind == DType.S8 else np.uint8).astype(np.int64)

    def _step(self, start: int, which: str) -> _Int64:
        """A word for each row and column of the frame, [rows, columns]."""
        rows = np.arange(self._frame["rows"])[:, None] * self._frame[f"{which}_row"]
        return start + rows + np.arange(self._frame["columns"]) * self._frame[f"{which}_column"]

    def _window(self, start: int) -> _Int64:
        """A word for each position of the kernel, [rows, columns, kernel rows, kernel columns,
        1]."""
        frame = self._frame
        down = np.arange(frame["kernel_rows"])[:, None] * frame["kernel_row"]
        window = down + np.arange(frame["kernel_columns"]) * frame["kernel_column"]
        return (self._step(start, "source")[:, :, None, None] + window)[..., None]

    def _seen(self, start: int, block: int) -> _Int64:
        """What each position of the kernel sees of a channel block, [tp, rows, columns, kernel,
        ti]."""
        places = self._window(start)[..., 0] + block * self._frame["source_block"]
        values = self._values(places, self._result["source_type"])
        return values.reshape(*values.shape[:3], -1, self.array.ti)

    def _target(self, start: int) -> _Int64:
        return self._step(start, "target")

    def _block_target(self, start: int, block: int) -> _Int64:
        return self._target(start) + block * self._frame["target_block"]

    def _write(self, places: _Int64, values: _Int64, byte: int = 0) -> None:
        """Bound *values*, [tp, rows, columns, channels], and write them."""
        bounded = np.clip(values, self._result["lo"], self._result["hi"])
        halves = [bounded & 0xFF] + ([bounded >> 8 & 0xFF] if self._result_width == 2 else [])
        self._put(places, [half.astype(np.uint8) for half in halves], byte)

    def _put(self, places: _Int64, halves: Sequence[_Bytes], byte: int) -> None:
        for number, half in enumerate(halves):
            part = slice(byte, byte + half.shape[-1])
            self.activations[:, self._wrapped(places + number), part] = half

    def _weight_words(self, start: int, count: int) -> _Bytes:
        return self.weights[(start + np.arange(count)) % len(self.weights)]

    def _channels(self, word: int) -> Any:
        """The parameters in a word of the weight buffer, one record for each channel."""
        return self.weights[word % len(self.weights)].view(_CHANNEL)

    def _parameters(self, instruction: Instruction, block: int) -> Any:
        """Those of a block of ti channels."""
        step = 0 if instruction.flags & Flag.SHARED else block
        return self._channels(instruction.operands["weights"] + step)[: self.array.ti]


def _units(bits: int) -> list[Unit]:
    return [unit for unit in Unit if bits >> unit & 1]


def _words(pixels: _Bytes, ti: int, wide: bool) -> _Bytes:
    """Pixels, [rows, columns, bytes], as words of the buffer, [rows, columns, words, ti]."""
    width = 2 if wide else 1
    rows, columns, size = pixels.shape
    blocks = -(-size // (ti * width))
    padded = np.zeros((rows, columns, blocks * ti * width), np.uint8)
    padded[..., :size] = pixels
    halves = padded.reshape(rows, columns, blocks, ti, width).swapaxes(3, 4)
    return halves.reshape(rows, columns, blocks * width, ti)


def _wrapped_32(sums: _Int64) -> _Int64:
    """As an accumulator of 32 bits has it."""
    return sums.astype(np.int32).astype(np.int64)


_EXECUTE: Final[dict[Opcode, Callable[[Simulator, Instruction], None]]] = {
    Opcode.LOAD_PLANE: Simulator._set_load_plane,
    Opcode.LOAD: Simulator._load,
    Opcode.LOAD_WEIGHTS: Simulator._load_weights,
    Opcode.LOAD_MATRIX: Simulator._load_matrix,
    Opcode.FRAME: Simulator._set_frame,
    Opcode.RESULT: Simulator._set_result,
    Opcode.CONV: Simulator._conv,
    Opcode.DEPTHWISE: Simulator._depthwise,
    Opcode.POOL: Simulator._pool,
    Opcode.VECTOR: Simulator._vector,
    Opcode.TABLE: Simulator._table,
    Opcode.STORE_PLANE: Simulator._set_store_plane,
    Opcode.STORE: Simulator._store,
}
