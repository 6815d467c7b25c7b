"""Rotations of wide values by a variable amount."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value

__all__ = ["chosen", "rotated_left", "rotated_right"]


def rotated_right(m: Module, value: Value, amount: Value, unit: int) -> Value:
    """*value* rotated to the right by *amount* times *unit* bits.

    It has ``2**len(amount)`` times *unit* bits. Each stage is a signal of its own, since an
    expression that is used twice is built twice.
    """
    assert len(value) == unit << len(amount)
    for place, bit in enumerate(amount):
        before, after = Signal(len(value)), Signal(len(value))
        by = unit << place
        m.d.comb += before.eq(value)
        m.d.comb += after.eq(Mux(bit, Cat(before[by:], before[:by]), before))
        value = after
    return value


def rotated_left(m: Module, value: Value, amount: Value, unit: int) -> Value:
    """Likewise to the left."""
    return rotated_right(m, value, (-amount)[: len(amount)], unit)


def chosen(values: list[Value], index: Value) -> Value:
    """The one of *values*, of which there is a power of two, with this *index*."""
    while len(values) > 1:
        bit, index = index[0], index[1:]
        values = [Mux(bit, odd, even) for even, odd in zip(values[::2], values[1::2], strict=True)]
    return values[0]
