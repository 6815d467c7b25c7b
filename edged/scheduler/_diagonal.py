"""Depthwise convolutions on the array, where it has more outputs than inputs.

DEPTHWISE uses a multiplier for each channel. A CONV of one block of input channels has as many
outputs again as `to` is larger than `ti`: these are the same channels of the pixels to the right,
whose windows are mostly the same words. So the window is a little wider, its weights are diagonals,
and 3×3 takes 12 cycles for two pixels of 16 channels instead of 18, on an array of 16×32.

Each block of channels is an instruction by itself, since CONV has the same source for all blocks,
and so is its result, a plane of its own. A convolution of 1×1 that follows reads them while they
are on chip, block by block like columns of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from edged.npu import Shift
from edged.npu.instructions import Flag, Opcode, Unit
from edged.scheduler._jobs import Job, target_words
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Fixed, by_block, channel_words
from edged.scheduler._passes import make_tile
from edged.scheduler._planes import POINT, Operand, Plane, Window
from edged.scheduler._plans import steps
from edged.scheduler._program import Program, Region
from edged.scheduler._rates import DRAM_BYTES, MEETS, OVERHEAD, moving_cycles
from edged.scheduler._tiles import MAX_TILE, Tile, Tiling, tilings

__all__ = ["Diagonal"]

_FIELD = 0xFFFF


@dataclass(frozen=True, slots=True)
class Diagonal:
    """A depthwise convolution that is done that way.

    Attributes:
        source: what it reads; its window is as the layer has it.
        together: pixels that are made at a time.
        tiling: of columns of so many pixels.
        blocks: of channels that are loaded at a time.
        cycles: estimated.
        then: a CONV of the pixels of the result, which is not stored then.
    """

    source: Operand
    target: Plane
    bounds: tuple[int, int]
    then: Job | None
    together: int
    tiling: Tiling
    blocks: int
    cycles: float

    @classmethod
    def planned(
        cls,
        source: Operand,
        target: Plane,
        bounds: tuple[int, int],
        machine: Machine,
        then: Job | None = None,
    ) -> Diagonal | None:
        """The way that is estimated to take the least time; None if there is none."""
        together = machine.array.to // machine.array.ti
        if together < 2 or source.window.dilation[1] > 1:
            return None
        best: Diagonal | None = None
        total = machine.blocks(target.channels)
        counts = (1, 2, 3, 4, 6, 8, 12, 16) if then is None else (1,)
        for blocks in sorted({-(-total // count) for count in counts}):
            made = cls(source, target, bounds, then, together, Tiling(1, 1, 1, 1), blocks, 0)
            if made._weight_words(machine) > machine.weight_words // 2:
                break
            for tiling in tilings(
                target.height,
                -(-target.width // together),
                machine.array.tp,
                partial(made._fits, machine),
            ):
                tried = replace(made, tiling=tiling)
                tried = replace(tried, cycles=tried._estimated(machine))
                if best is None or tried.cycles < best.cycles:
                    best = tried
        return best

    def run(
        self,
        program: Program,
        weights: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        shift: Shift,
    ) -> None:
        """Write its steps.

        Args:
            weights: s8 [C, kh, kw].
        """
        machine = program.machine
        constants = Fixed(self._words(machine, weights, bias, shift))
        total = machine.blocks(self.target.channels)
        columns = -(-self.target.width // self.together)
        for first in range(0, total, self.blocks):
            count = min(self.blocks, total - first)
            held = constants.load(program, first, count)
            others = [
                each.parameters.load(program, 0, each.blocks(machine)) if each.parameters else None
                for each in self._others()
            ]
            for tile in self.tiling.tiles(self.target.height, columns):
                wide = replace(
                    tile, column=tile.column * self.together, columns=tile.columns * self.together
                )
                self._tile(program, wide, first, count, held, others)
            for region in (held, *others):
                if region is not None:
                    program.weights.free(region)

    def _others(self) -> list[Job]:
        """What goes on with the result on chip."""
        return self.then.chain() if self.then is not None else []

    def _tile(
        self,
        program: Program,
        tile: Tile,
        first: int,
        count: int,
        constants: Region,
        others: list[Region | None],
    ) -> None:
        """Load *count* blocks of channels of a *tile*, and make each of them."""
        machine, ti = program.machine, program.machine.array.ti
        channels = min(count * ti, self.target.channels - first * ti)
        source = replace(self.source, plane=self.source.plane.some(first * ti, channels))
        part = tile.part(source.window)
        pixel, step = source.plane.words(machine), self.target.itemsize
        region = program.bank.take(part.rows * part.columns * pixel)
        program.load(source.plane, part, source.fill, region)
        (kh, kw), (sh, sw), (dh, _) = self._kernel(), source.window.stride, source.window.dilation
        row = part.columns * pixel
        size = tile.rows * tile.columns * step
        whole = program.bank.take(count * size) if self.then is not None else None
        for number in range(count):
            out = (
                Region(whole.space, (whole.first + number * size) % program.bank.words, size)
                if whole is not None
                else program.bank.take(size)
            )
            program.frame(
                rows=tile.rows,
                columns=tile.columns // self.together,
                blocks=1,
                source_row=sh * row if tile.rows > 1 else 0,
                source_column=self.together * sw * pixel,
                target_row=tile.columns * step if tile.rows > 1 else 0,
                target_column=self.together * step,
                kernel_rows=kh,
                kernel_columns=kw,
                kernel_blocks=1,
                kernel_row=dh * row if kh > 1 else 0,
                kernel_column=pixel,
            )
            program.result(
                source_type=int(source.plane.dtype),
                target_type=int(self.target.dtype),
                lo=self.bounds[0],
                hi=self.bounds[1],
            )
            operands = {
                "source": (region.first + number * source.plane.itemsize) % program.bank.words,
                "target": out.first,
                "weights": (constants.first + number * self._block_words()) % program.weights.words,
            }
            flags = Flag.FIRST | Flag.LAST
            program.execute(Opcode.CONV, flags, operands, (region, constants), (out,))
            if whole is not None:
                continue
            begin = (first + number) * ti
            plane = self.target.some(begin, min(ti, self.target.channels - begin))
            program.store(plane, tile.part(POINT), out)
            program.bank.free(out)
        program.bank.free(region)
        if self.then is not None and whole is not None:
            result = replace(self.then.sources[0], pitch=step, apart=size)
            job = replace(self.then, sources=(result,))
            make_tile(program, job, tile, [whole], others)
            program.bank.free(whole)

    def _kernel(self) -> tuple[int, int]:
        """Rows and columns of the window of all pixels that are made together."""
        window: Window = self.source.window
        return window.kernel[0], window.extent(1, self.together)[1]

    def _block_words(self) -> int:
        high, wide = self._kernel()
        return 1 + high * wide

    def _weight_words(self, machine: Machine) -> int:
        """Words of the weight buffer that are held at a time."""
        words = self.blocks * self._block_words()
        for each in self._others():
            words += each.parameters.words(each.blocks(machine)) if each.parameters else 0
        return words

    def _besides(self) -> list[Operand]:
        """Operands of what goes on, other than results."""
        found: list[Operand] = []
        taken = 0
        for job in self._others():
            found += [each for number, each in enumerate(job.sources) if number != taken]
            taken = job.then.index if job.then is not None else -1
        return found

    def _words(
        self,
        machine: Machine,
        weights: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        shift: Shift,
    ) -> npt.NDArray[np.uint8]:
        """Parameters and weights of each block of channels: [blocks, words, bytes]."""
        ti, together = machine.array.ti, self.together
        channels, _, kw = weights.shape
        high, wide = self._kernel()
        blocks = by_block(weights, ti).transpose(0, 2, 3, 1)  # [blocks, kh, kw, ti]
        taps = np.zeros((len(blocks), high, wide, ti, together, ti), np.int8)
        each = np.arange(ti)
        for number in range(together):
            begin = number * self.source.window.stride[1]
            taps[:, :, begin : begin + kw, each, number, each] = blocks
        parameters = channel_words(machine, channels, ti, shift, bias)[:, : 8 * ti]
        repeated = np.zeros((len(blocks), 1, machine.weight_bytes), np.uint8)
        repeated[:, 0, : 8 * ti * together] = np.tile(parameters, together)
        words = taps.view(np.uint8).reshape(len(blocks), high * wide, machine.weight_bytes)
        return np.concatenate([repeated, words], 1)

    def _fits(self, machine: Machine, rows: int, columns: int) -> bool:
        columns *= self.together
        high, wide = self.source.window.extent(rows, columns)
        pixel = min(self.blocks * machine.array.ti, self.source.plane.channels)
        pixel = machine.blocks(pixel) * self.source.plane.itemsize
        reach, lanes = self.source.window.reach * self.together, machine.array.tp
        results = [target_words(job, machine) for job in self._others()]
        each = (self.blocks if results else 2) * self.target.itemsize + sum(results)
        each += sum(operand.plane.words(machine) for operand in self._besides())
        return (
            high * wide * pixel + rows * columns * each <= machine.bank_words // 2
            and max(rows * self.target.itemsize, *results, 1) * columns <= _FIELD
            and wide * pixel * reach <= _FIELD
            and max(high, wide, rows, columns) * reach * lanes <= MAX_TILE
        )

    def _estimated(self, machine: Machine) -> float:
        """Cycles for all of it."""
        rows, columns = self.tiling.rows, self.tiling.columns * self.together
        total = machine.blocks(self.target.channels)
        count = self.tiling.count(self.target.height, -(-self.target.width // self.together))
        parts, lanes = -(-total // self.blocks), machine.array.tp
        high, wide = self.source.window.extent(rows, columns)
        run = min(self.blocks * machine.array.ti, self.source.plane.channels)
        size, step = run * self.source.plane.itemsize, self.source.plane.pixel_bytes
        load, dram, port = moving_cycles(high * wide * lanes, size, step)
        load = max(load, dram) + OVERHEAD[Unit.LOAD]
        words = self._weight_words(machine)
        weights = OVERHEAD[Unit.LOAD] + words * machine.weight_bytes // DRAM_BYTES
        taps = max(
            (self._block_words() - 1) * self.source.plane.itemsize,
            self.together * self.target.itemsize,
        )
        pixels = rows * columns
        execute = OVERHEAD[Unit.EXECUTE] + 1 + rows * self.tiling.columns * taps
        execute *= self.blocks
        port += int(MEETS * pixels * self.blocks * self.target.itemsize)
        stored = self.target.some(0, min(machine.array.ti, self.target.channels))
        stores = self.blocks
        for job in self._others():
            each, besides = steps(job, machine)
            execute += each * pixels + besides
            port += int(MEETS * pixels * target_words(job, machine))
            stored, stores = job.target, 1
        for operand in self._besides():
            size, step = operand.plane.run_bytes, operand.plane.pixel_bytes
            cycles, beats, chunks = moving_cycles(pixels * lanes, size, step)
            load, dram, port = load + cycles + OVERHEAD[Unit.LOAD], dram + beats, port + chunks
        store, beats, chunks = moving_cycles(pixels * lanes, stored.run_bytes, stored.pixel_bytes)
        store = (max(store, beats) + OVERHEAD[Unit.STORE]) * stores
        dram, port = dram + beats * stores, port + chunks * stores
        loads = (load * count + weights) * parts
        dram = (dram * count + weights) * parts
        bounds = loads, dram, execute * count * parts, store * count * parts, port * count * parts
        return max(bounds) + load + weights + store
