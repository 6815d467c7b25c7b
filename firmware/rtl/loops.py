"""The loops of the execute unit."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["COUNTS", "STEPS", "Loops"]

COUNTS = ("blocks", "rows", "columns", "kernel_rows", "kernel_columns", "kernel_blocks")
"""How often, outermost first; each at least once."""
STEPS = (
    *("source", "source_block", "source_row", "source_column", "kernel_row", "kernel_column"),
    *("second", "second_block", "second_row", "second_column"),
    *("target", "target_block", "target_row", "target_column"),
)
"""Where operands and result begin in the bank, and by how many words each loop goes on."""


class Loops(wiring.Component):
    """Which word is read next, and where the result goes: one step a cycle.

    A *tile* is what one result is made of: all of the kernel.

    Attributes
    ----------
    start: :py:`In(1)`
        Strobe: begin. The operands stay the same until the last step.
    advance: :py:`In(1)`
        Strobe: go on to the next step.
    pairs: :py:`In(1)`
        The kernel is two positions, which are those of the two operands. If not asserted the first
        operand is read at all positions.
    wide: :py:`In(1)`
        What this step reads is s16 and takes two words: two steps.
    partial: :py:`In(1)`
        Several blocks fill a word of the result. If not asserted each begins with a new one.
    word: :py:`Out(bank word)`
        To be read in this step.
    high: :py:`Out(1)`
        It has the high bytes.
    is_second: :py:`Out(1)`
        It is the second operand's.
    first, last: :py:`Out(1)`
        This is the first position of the tile; this is the last step of the tile.
    block_end, end: :py:`Out(1)`
        This is the last step of the block; of all.
    target_word, target_part: :py:`Out(...)`
        Of the tile's result, and which part of the word it fills.
    """

    def __init__(self, bank_words: int, parts: int) -> None:
        self._parts = parts
        super().__init__(
            {
                **{name: In(16) for name in COUNTS},
                **{name: In(range(bank_words)) for name in STEPS},
                "start": In(1),
                "advance": In(1),
                "pairs": In(1),
                "wide": In(1),
                "partial": In(1),
                "word": Out(range(bank_words)),
                "high": Out(1),
                "is_second": Out(1),
                "first": Out(1),
                "last": Out(1),
                "block_end": Out(1),
                "end": Out(1),
                "target_word": Out(range(bank_words)),
                "target_part": Out(range(max(parts, 2))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = self.word.shape()
        left = {name: Signal(16, name=f"{name}_left") for name in COUNTS}
        # Where each loop of an operand began, as (block, row, column).
        source = [Signal(word, name=f"source_at_{loop}") for loop in ("block", "row", "column")]
        second = [Signal(word, name=f"second_at_{loop}") for loop in ("block", "row", "column")]
        target = [Signal(word, name=f"target_at_{loop}") for loop in ("block", "row", "column")]
        kernel = [Signal(word, name=f"kernel_at_{loop}") for loop in ("row", "column")]

        m.d.comb += [
            self.last.eq(
                (self.high | ~self.wide)
                & (left["kernel_rows"] == 0)
                & (left["kernel_columns"] == 0)
                & (left["kernel_blocks"] == 0)
            ),
            self.block_end.eq(self.last & (left["rows"] == 0) & (left["columns"] == 0)),
            self.end.eq(self.block_end & (left["blocks"] == 0)),
            self.target_word.eq(target[-1]),
        ]

        def again(*names: str) -> list[object]:
            return [left[name].eq(getattr(self, name) - 1) for name in names]

        def moved(loop: int, name: str) -> list[object]:
            """Operands and result go on in a *loop* of theirs, and the tile begins anew."""
            statements: list[object] = []
            for at, which in ((source, "source"), (second, "second"), (target, "target")):
                following = at[loop] + getattr(self, f"{which}_{name}")
                if which == "target" and loop == 0:
                    full = ~self.partial | (self.target_part == self._parts - 1)
                    following = Mux(full, following, at[0])
                    part = Mux(full, 0, self.target_part + 1)
                    statements.append(self.target_part.eq(part))
                statements += [inner.eq(following) for inner in at[loop:]]
                if which == "source":
                    statements += [inner.eq(following) for inner in (*kernel, self.word)]
            statements += [self.first.eq(1), self.is_second.eq(0)]
            return statements

        with m.If(self.start):
            m.d.sync += again(*COUNTS)
            for at, begin in (
                ((*source, *kernel, self.word), self.source),
                (second, self.second),
                (target, self.target),
            ):
                m.d.sync += [inner.eq(begin) for inner in at]
            m.d.sync += [
                self.high.eq(0),
                self.first.eq(1),
                self.is_second.eq(0),
                self.target_part.eq(0),
            ]
        with m.Elif(self.advance & self.wide & ~self.high):
            m.d.sync += [self.high.eq(1), self.word.eq(self.word + 1)]
        with m.Elif(self.advance):
            m.d.sync += [self.high.eq(0), self.first.eq(0)]
            with m.If(left["kernel_blocks"] != 0):
                m.d.sync += left["kernel_blocks"].eq(left["kernel_blocks"] - 1)
                m.d.sync += self.word.eq(self.word + 1)
            with m.Elif(left["kernel_columns"] != 0):
                following = Mux(self.pairs, second[-1], kernel[1] + self.kernel_column)
                m.d.sync += left["kernel_columns"].eq(left["kernel_columns"] - 1)
                m.d.sync += again("kernel_blocks")
                m.d.sync += [kernel[1].eq(following), self.word.eq(following)]
                m.d.sync += self.is_second.eq(self.pairs)
            with m.Elif(left["kernel_rows"] != 0):
                following = kernel[0] + self.kernel_row
                m.d.sync += left["kernel_rows"].eq(left["kernel_rows"] - 1)
                m.d.sync += again("kernel_columns", "kernel_blocks")
                m.d.sync += [at.eq(following) for at in (*kernel, self.word)]
            with m.Elif(left["columns"] != 0):
                m.d.sync += left["columns"].eq(left["columns"] - 1)
                m.d.sync += again(*COUNTS[3:])
                m.d.sync += moved(2, "column")
            with m.Elif(left["rows"] != 0):
                m.d.sync += left["rows"].eq(left["rows"] - 1)
                m.d.sync += again(*COUNTS[2:])
                m.d.sync += moved(1, "row")
            with m.Else():
                m.d.sync += left["blocks"].eq(left["blocks"] - 1)
                m.d.sync += again(*COUNTS[1:])
                m.d.sync += moved(0, "block")
        return m
