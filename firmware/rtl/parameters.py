"""What a gateware is built for."""

from __future__ import annotations

from dataclasses import dataclass

from edged.npu.instructions import ARRAY_CHANNELS, ARRAY_PIXELS, CHANNEL
from edged.npu.registers import Array

__all__ = ["Parameters"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Sizes of the array and of the buffers.

    Attributes:
        array: ti and to are 8, 16 or 32, tp is 1, 2 or 4. The parameters of ``to`` and of ``ti``
            channels fit into a word of the weight buffer.
        activation_buffer: bytes, of all lanes; a power of two.
        weight_buffer: bytes; a power of two.

    Raises:
        ValueError: a size that is none of these.
    """

    array: Array
    activation_buffer: int
    weight_buffer: int

    def __post_init__(self) -> None:
        ti, to, tp = self.array.ti, self.array.to, self.array.tp
        if not {ti, to} <= {*ARRAY_CHANNELS} or tp not in ARRAY_PIXELS:
            raise ValueError(
                f"cannot build array {self.array}: wanted ti and to of 8, 16 or 32, tp of 1, 2 or 4"
            )
        for name, size, word in (
            ("activation", self.activation_buffer, 64 * tp),
            ("weight", self.weight_buffer, ti * to),
        ):
            if size.bit_count() != 1 or size < 4 * word:
                raise ValueError(
                    f"cannot build {name} buffer of {size} bytes: wanted a power of two of at"
                    f" least {4 * word}"
                )
        assert ti * to >= CHANNEL.size * max(ti, to)

    @property
    def parts(self) -> int:
        """Words of a lane's bank in 64 bytes."""
        return 64 // self.array.ti

    @property
    def slices(self) -> int:
        """Times 64 bytes in a word of the weight buffer."""
        return self.array.ti * self.array.to // 64

    @property
    def activation_words(self) -> int:
        """Words of ``ti`` bytes of a lane's bank."""
        return self.activation_buffer // (self.array.ti * self.array.tp)

    @property
    def weight_words(self) -> int:
        """Words of ``ti·to`` bytes of the weight buffer."""
        return self.weight_buffer // (self.array.ti * self.array.to)
