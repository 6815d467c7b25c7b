"""How the values of a tensor are written as integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.compiler._kernel import Kernel
from edged.compiler._passing import Exponents, sources_of
from edged.npu import DType, Op

__all__ = ["Format", "arriving"]


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """How a tensor's values are written: ``q · 2**exponents[c]``, q of *dtype*.

    Attributes:
        exponents: one for each channel, [C].
    """

    dtype: DType
    exponents: Exponents

    @property
    def exponent(self) -> int:
        """The largest of them."""
        return int(self.exponents.max())

    @property
    def even(self) -> bool:
        """Whether all channels have the same exponent."""
        return bool((self.exponents == self.exponents[0]).all())

    @property
    def numbers(self) -> npt.NDArray[np.float64]:
        """The real value of each byte in the coarsest channel, [256]."""
        steps = np.arange(256, dtype=np.uint8).view(self.dtype.numpy)
        return np.asarray(np.ldexp(steps.astype(np.float64), self.exponent))

    def no_finer_than(self, exponents: Exponents) -> Format:
        """The same with exponents of at least *exponents*, [C]: of all channels if all are even."""
        if self.even:
            exponents = np.full_like(self.exponents, exponents.max())
        return Format(self.dtype, np.maximum(self.exponents, exponents))


def arriving(kernel: Kernel, formats: Mapping[str, Format]) -> list[Exponents]:
    """The exponents of what *kernel* reads, by the channel of its output that it goes to.

    One array [C] for each input, of a COPY for each move, of a CONCAT for all. Not for
    convolutions, which sum up over channels; a MATMUL does so over those of its first input, which
    are all alike.
    """
    made = kernel.plane[2]
    given = [formats[name].exponents for name in kernel.inputs]
    if kernel.op is Op.CONCAT:
        return [np.concatenate(given)]
    if kernel.op is Op.MATMUL:
        given[0] = given[0][:1]
    if kernel.op is not Op.COPY:
        return [np.broadcast_to(exponents, made) for exponents in given]
    result = []
    for move in kernel.moves:
        exponents = given[move.source or 0]
        sources = sources_of(move, len(exponents), made)
        if sources is None:  # Then they are all the same.
            sources = np.zeros(made, np.int64)
        result.append(np.where(sources < 0, exponents.min(), exponents[sources]))
    return result
