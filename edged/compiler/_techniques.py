"""What the compiler does for accuracy; each can be left out, to see what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Techniques"]


@dataclass(frozen=True, slots=True)
class Techniques:
    """All of them are on; ``docs/accuracy.md`` says what each brings.

    Attributes:
        least_error: exponents with the least squared error, not those that cover every value.
        expected_error: biases make up for what the rounding of weights shifts the mean by.
        stretch: tensors with an upper bound, such as ReLU6, are scaled to fill their integers.
        compensated: weights of depthwise convolutions are rounded so that their errors cancel out.
        scaled_input: synthetic samples for float inputs are as large as the first layer expects.
        supplemented: made-up images stand beside calibration images that are fewer than 8.
        columns: outputs have a step and an offset for each column, undone on the host.
        channels: tensors whose channels differ have an exponent for each, where that loses less.
        wide: tensors whose 8 bits lose most of what the outputs lose are s16, or are the host's
            where the device cannot read them in 16.
    """

    least_error: bool = True
    expected_error: bool = True
    stretch: bool = True
    compensated: bool = True
    scaled_input: bool = True
    supplemented: bool = True
    columns: bool = True
    channels: bool = True
    wide: bool = True
