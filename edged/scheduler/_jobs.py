"""A job: one instruction over a whole plane, or several on what is on chip, and its operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edged.npu.instructions import Flag, Opcode
from edged.scheduler._machine import Machine
from edged.scheduler._pack import Parameters
from edged.scheduler._planes import POINT, Operand, Plane, Window
from edged.scheduler._program import Program, Region
from edged.scheduler._tiles import Tile

__all__ = ["Job", "NothingFitsError", "Then", "compute", "target_words"]


class NothingFitsError(Exception):
    """A job has no tile that is small enough for the buffers."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is computed.

    Attributes:
        op: of the execute unit; None: the plane is moved as it is.
        sources: one or two operands.
        lo, hi: bounds of the result.
        multiplier: POOL, mean.
        parameters: what the weight buffer has; None: nothing.
        then: what is made of the result while it is on chip; it is not stored then.
    """

    op: Opcode | None
    sources: tuple[Operand, ...]
    target: Plane
    lo: int = 0
    hi: int = 0
    flags: int = 0
    multiplier: int = 0
    parameters: Parameters | None = None
    then: Then | None = None

    @property
    def window(self) -> Window:
        return self.sources[0].window

    def block(self, machine: Machine) -> int:
        """Channels of a block of the result."""
        return machine.array.to if self.op is Opcode.CONV else machine.array.ti

    def blocks(self, machine: Machine) -> int:
        """Blocks of the result."""
        return -(-self.target.channels // self.block(machine))

    def chain(self) -> list[Job]:
        """It, and what is made of its result while that is on chip."""
        return [self, *(self.then.job.chain() if self.then is not None else [])]

    def of_blocks(self, machine: Machine, first: int, blocks: int) -> Job:
        """The part of it that makes some of the blocks of channels."""
        size = self.block(machine)
        begin = first * size
        return self._of_channels(begin, min(blocks * size, self.target.channels - begin))

    def _of_channels(self, begin: int, channels: int) -> Job:
        if channels == self.target.channels:
            return self
        sources = self.sources
        if self.op is not Opcode.CONV:
            sources = tuple(
                source
                if number and self.flags & Flag.SPREAD
                else replace(source, plane=source.plane.some(begin, channels))
                for number, source in enumerate(sources)
            )
        then = self.then and replace(self.then, job=self.then.job._of_channels(begin, channels))
        return replace(self, sources=sources, target=self.target.some(begin, channels), then=then)

    def flattened(self) -> Job:
        """The same with planes of one row, if that can be."""
        return self._flattened() if all(job._is_flat() for job in self.chain()) else self

    def _is_flat(self) -> bool:
        windows = {source.window for source in self.sources}
        planes = [source.plane for source in self.sources if source.window == POINT]
        return (
            self.window == POINT
            and windows <= {POINT, _EVERYWHERE}
            and all(plane.is_flat for plane in (self.target, *planes))
        )

    def _flattened(self) -> Job:
        sources = tuple(
            replace(source, plane=source.plane.flattened()) if source.window == POINT else source
            for source in self.sources
        )
        then = self.then and replace(self.then, job=self.then.job._flattened())
        return replace(self, sources=sources, target=self.target.flattened(), then=then)


@dataclass(frozen=True, slots=True)
class Then:
    """A job that goes on with a result.

    Attributes:
        job: of pixels by themselves.
        index: which of its sources the result is.
    """

    job: Job
    index: int


_EVERYWHERE = Window(stride=(0, 0))


def compute(
    program: Program,
    job: Job,
    tile: Tile,
    sources: Sequence[Region],
    out: Region,
    weights: Region | None,
) -> None:
    """Write the instruction that makes a *tile* out of what is loaded."""
    assert job.op is not None
    program.frame(**_frame(job, tile, program.machine))
    program.result(**_result(job, tile, program.machine))
    operands = {"source": sources[0].first, "target": out.first}
    if weights is not None:
        operands["weights"] = weights.first
    if len(sources) > 1:
        operands["second"] = sources[1].first
    reads = (*sources, weights) if weights is not None else tuple(sources)
    program.execute(job.op, job.flags, operands, reads, (out,))


def target_words(job: Job, machine: Machine) -> int:
    """Words of a pixel of the result. CONV writes whole blocks."""
    size = job.block(machine)
    channels = -(-job.target.channels // size) * size
    return machine.blocks(channels) * job.target.itemsize


def _frame(job: Job, tile: Tile, machine: Machine) -> dict[str, int]:
    """The operands of FRAME for a *tile*."""
    (kh, kw), (sh, sw), (dh, dw) = job.window.kernel, job.window.stride, job.window.dilation
    source = job.sources[0]
    pixel, target = source.words(machine), target_words(job, machine)
    row = job.window.extent(tile.rows, tile.columns)[1] * pixel
    frame = {
        "rows": tile.rows,
        "columns": tile.columns,
        "blocks": job.blocks(machine),
        "source_row": sh * row if tile.rows > 1 else 0,
        "source_column": sw * pixel if tile.columns > 1 else 0,
        "target_row": tile.columns * target if tile.rows > 1 else 0,
        "target_column": target if tile.columns > 1 else 0,
        "kernel_rows": kh,
        "kernel_columns": kw,
        "kernel_row": dh * row if kh > 1 else 0,
        "kernel_column": dw * pixel if kw > 1 else 0,
    }
    if job.op is Opcode.CONV and source.apart:  # Blocks are read like columns of a window.
        blocks = machine.blocks(source.plane.channels)
        return frame | {
            "kernel_columns": blocks,
            "kernel_column": source.apart,
            "kernel_blocks": 1,
        }
    if job.op is Opcode.CONV:
        return frame | {"kernel_blocks": machine.blocks(source.plane.channels)}
    return frame | {"source_block": source.plane.itemsize, "target_block": job.target.itemsize}


def _result(job: Job, tile: Tile, machine: Machine) -> dict[str, int]:
    """The operands of RESULT for a *tile*."""
    result = {
        "source_type": int(job.sources[0].plane.dtype),
        "target_type": int(job.target.dtype),
        "lo": job.lo,
        "hi": job.hi,
        "multiplier": job.multiplier,
    }
    if len(job.sources) < 2:
        return result
    second = job.sources[1]
    (down, right), words = second.window.stride, second.words(machine)
    row = second.window.extent(tile.rows, tile.columns)[1] * words
    return result | {
        "second_type": int(second.plane.dtype),
        "second_row": down * row if tile.rows > 1 else 0,
        "second_column": right * words if tile.columns > 1 else 0,
        "second_block": 0 if job.flags & Flag.SPREAD else second.plane.itemsize,
    }
