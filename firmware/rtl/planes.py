"""Walking over a plane in DRAM, for the units that load and store."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PLANE_ADDRESS_BITS", "Origin", "Walk", "pixel_layout", "walk_layout"]

PLANE_ADDRESS_BITS = 50
"""Bits of an address from the beginning of the bank: that of a pixel inside of the plane is at
most ``2^32 + 2·(2^16 - 1)·(2^32 - 1)``. Outside of it they wrap, and mean nothing."""
_PLACE_BITS = 20
"""Bits of a row or column of the plane, signed: at most 2^15 + 3·2^16 + 2^16."""


def pixel_layout(bank_words: int, lanes: int) -> data.StructLayout:
    """A pixel of one lane.

    address: of its first byte, from the beginning of the bank.
    inside: it is in the plane. If not asserted, there is no such pixel in DRAM.
    lane, word: where it is in the buffer.
    """
    return data.StructLayout(
        {
            "address": PLANE_ADDRESS_BITS,
            "inside": 1,
            "lane": range(max(lanes, 2)),
            "word": range(bank_words),
        }
    )


def walk_layout(lanes: int) -> data.StructLayout:
    """What a :class:`Walk` goes over.

    origin, down, right: those of :class:`Origin`.
    height … buffer_pixel: the plane's.
    lanes: how many lanes take part.
    row … columns: the move's; there is at least one row and one column.
    """
    return data.StructLayout(
        {
            "origin": PLANE_ADDRESS_BITS,
            "down": PLANE_ADDRESS_BITS,
            "right": PLANE_ADDRESS_BITS,
            "height": 16,
            "width": 16,
            "row_bytes": 32,
            "pixel_bytes": 32,
            "lanes_across": 8,
            "lane_rows": 16,
            "lane_columns": 16,
            "buffer_row": 16,
            "buffer_pixel": 16,
            "lanes": range(lanes + 1),
            "row": signed(16),
            "column": signed(16),
            "buffer": 32,
            "rows": 17,
            "columns": 16,
        }
    )


class Origin(wiring.Component):
    """Where lane 0 begins, and how far the others are: sums of products, a bit of each a cycle.

    It takes as many cycles as the largest of the four factors has bits, at least one.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: compute. The operands stay the same until it is ``done``.
    address, row, column, row_bytes, pixel_bytes, lane_rows, lane_columns:
        Those of the plane and the move.
    done: :py:`Out(1)`
        The results are valid. Not asserted in the cycle after ``start``.
    origin: :py:`Out(50)`
        ``address + row·row_bytes + column·pixel_bytes``.
    down, right: :py:`Out(50)`
        ``lane_rows·row_bytes`` and ``lane_columns·pixel_bytes``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "address": In(32),
                "row": In(signed(16)),
                "column": In(signed(16)),
                "row_bytes": In(32),
                "pixel_bytes": In(32),
                "lane_rows": In(16),
                "lane_columns": In(16),
                "done": Out(1),
                "origin": Out(PLANE_ADDRESS_BITS),
                "down": Out(PLANE_ADDRESS_BITS),
                "right": Out(PLANE_ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row_step = Signal(PLANE_ADDRESS_BITS)
        pixel_step = Signal(PLANE_ADDRESS_BITS)
        row, column, down, right = (
            Signal(16, name=name) for name in ("rows", "columns", "lane_rows", "lane_columns")
        )
        m.d.comb += self.done.eq(~((row | column | down | right).any()))
        with m.If(self.start):
            m.d.sync += [
                row_step.eq(self.row_bytes),
                pixel_step.eq(self.pixel_bytes),
                row.eq(abs(self.row)),
                column.eq(abs(self.column)),
                down.eq(self.lane_rows),
                right.eq(self.lane_columns),
                self.origin.eq(self.address),
                self.down.eq(0),
                self.right.eq(0),
            ]
        with m.Else():
            of_rows = Mux(row[0], Mux(self.row < 0, -row_step, row_step), 0)
            of_columns = Mux(column[0], Mux(self.column < 0, -pixel_step, pixel_step), 0)
            m.d.sync += self.origin.eq(self.origin + of_rows + of_columns)
            m.d.sync += self.down.eq(self.down + Mux(down[0], row_step, 0))
            m.d.sync += self.right.eq(self.right + Mux(right[0], pixel_step, 0))
            m.d.sync += [row_step.eq(row_step << 1), pixel_step.eq(pixel_step << 1)]
            m.d.sync += [factor.eq(factor >> 1) for factor in (row, column, down, right)]
        return m


class Walk(wiring.Component):
    """All pixels of a move: lane by lane, row by row, one a cycle.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: begin. What it goes over stays the same until it has been at its end.
    stop: :py:`In(1)`
        Strobe: go no further.
    over: :py:`In(walk_layout(lanes))`
    pixels: :py:`Out(stream.Signature(pixel_layout(bank_words, lanes)))`
        ``valid`` is not asserted when all pixels have been taken.
    """

    def __init__(self, bank_words: int, lanes: int) -> None:
        self._lanes = lanes
        self._pixel = pixel_layout(bank_words, lanes)
        super().__init__(
            {
                "start": In(1),
                "stop": In(1),
                "over": In(walk_layout(lanes)),
                "pixels": Out(stream.Signature(self._pixel)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        over, pixel = self.over, self.pixels.payload
        # What is left of each loop, without the one at work.
        columns, rows = Signal(16), Signal(17)
        lanes, across = Signal(range(self._lanes + 1)), Signal(8)
        # Where each loop began, innermost first: the row of pixels, the lane, the row of lanes.
        at_row, at_lane, at_lanes = (
            Signal(PLANE_ADDRESS_BITS, name=name) for name in ("at_row", "at_lane", "at_lanes")
        )
        place = signed(_PLACE_BITS)
        row, lane_row = Signal(place), Signal(place)
        column, lane_column = Signal(place), Signal(place)
        word, word_row = Signal.like(pixel.word), Signal.like(pixel.word)
        address, lane = Signal(PLANE_ADDRESS_BITS), Signal.like(pixel.lane)

        m.d.comb += [
            pixel.address.eq(address),
            pixel.lane.eq(lane),
            pixel.word.eq(word),
            pixel.inside.eq(
                (row >= 0) & (row < over.height) & (column >= 0) & (column < over.width)
            ),
        ]
        next_row, next_lane, next_lanes = (
            at_row + over.row_bytes,
            at_lane + over.right,
            at_lanes + over.down,
        )
        with m.If(self.stop):
            m.d.sync += self.pixels.valid.eq(0)
        with m.Elif(self.start):
            m.d.sync += [
                self.pixels.valid.eq(1),
                columns.eq(over.columns - 1),
                rows.eq(over.rows - 1),
                lanes.eq(over.lanes - 1),
                across.eq(over.lanes_across - 1),
                address.eq(over.origin),
                at_row.eq(over.origin),
                at_lane.eq(over.origin),
                at_lanes.eq(over.origin),
                row.eq(over.row),
                lane_row.eq(over.row),
                column.eq(over.column),
                lane_column.eq(over.column),
                word.eq(over.buffer),
                word_row.eq(over.buffer),
                lane.eq(0),
            ]
        with m.Elif(self.pixels.valid & self.pixels.ready):
            with m.If(columns != 0):
                m.d.sync += [
                    columns.eq(columns - 1),
                    address.eq(address + over.pixel_bytes),
                    column.eq(column + 1),
                    word.eq(word + over.buffer_pixel),
                ]
            with m.Elif(rows != 0):
                m.d.sync += [
                    columns.eq(over.columns - 1),
                    rows.eq(rows - 1),
                    address.eq(next_row),
                    at_row.eq(next_row),
                    row.eq(row + 1),
                    column.eq(lane_column),
                    word.eq(word_row + over.buffer_row),
                    word_row.eq(word_row + over.buffer_row),
                ]
            with m.Elif(lanes != 0):
                begin = Mux(across != 0, next_lane, next_lanes)
                begin_row = Mux(across != 0, lane_row, lane_row + over.lane_rows)
                begin_column = Mux(across != 0, lane_column + over.lane_columns, over.column)
                m.d.sync += [
                    columns.eq(over.columns - 1),
                    rows.eq(over.rows - 1),
                    lanes.eq(lanes - 1),
                    lane.eq(lane + 1),
                    across.eq(Mux(across != 0, across, over.lanes_across) - 1),
                    address.eq(begin),
                    at_row.eq(begin),
                    at_lane.eq(begin),
                    row.eq(begin_row),
                    lane_row.eq(begin_row),
                    column.eq(begin_column),
                    lane_column.eq(begin_column),
                    word.eq(over.buffer),
                    word_row.eq(over.buffer),
                ]
                with m.If(across == 0):
                    m.d.sync += at_lanes.eq(next_lanes)
            with m.Else():
                m.d.sync += self.pixels.valid.eq(0)
        return m
