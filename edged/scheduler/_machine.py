"""Sizes of the machine that a schedule is made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from edged.errors import ModelError
from edged.npu import Array
from edged.npu.instructions import ARRAY_CHANNELS, ARRAY_PIXELS

__all__ = ["Machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """An array and its buffers.

    Attributes:
        bank_words: words of each lane's bank of the activation buffer.
        weight_words: words of the weight buffer.
    """

    array: Array
    bank_words: int
    weight_words: int

    @classmethod
    def of(cls, array: Array, activation_buffer: int, weight_buffer: int) -> Self:
        """A machine with buffers of so many bytes.

        Raises:
            ModelError: there is no such machine.
        """
        ti, to, tp = array.ti, array.to, array.tp
        if not {ti, to} <= {*ARRAY_CHANNELS} or tp not in ARRAY_PIXELS:
            raise ModelError(
                f"cannot schedule for array {array}: wanted input and output channels of 8, 16 or"
                " 32, and 1, 2 or 4 pixels"
            )
        made = cls(array, activation_buffer // (ti * tp), weight_buffer // (ti * to))
        if made.bank_words < 2 or made.weight_words < 2:
            raise ModelError(
                f"cannot schedule for buffers of {activation_buffer} and {weight_buffer} bytes:"
                f" wanted two words or more, {2 * ti * tp} and {2 * ti * to} bytes"
            )
        return made

    @property
    def weight_bytes(self) -> int:
        """Bytes of a word of the weight buffer."""
        return self.array.ti * self.array.to

    def blocks(self, channels: int) -> int:
        """Words that as many channels of one byte take in a bank."""
        return -(-channels // self.array.ti)
