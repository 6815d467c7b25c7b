"""The exponents of tensors that functions alone read: by the error in what these give.

A sigmoid saturates, and a SiLU is as good as 0 far below it: how finely such a tensor is written
and where it is cut off matters as far as the functions that read it tell its values apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edged.compiler._calibrate import Statistics, covering_exponent, finer, unseen
from edged.compiler._kernel import Kernel
from edged.compiler._partition import Partition
from edged.npu import DType, Op

__all__ = ["TableReaders"]

_Float = npt.NDArray[np.float64]
_Reader = Callable[[_Float], _Float]


class TableReaders:
    """What reads the tensors of a program that only functions read."""

    def __init__(self, cut: Partition, statistics: Mapping[str, Statistics]) -> None:
        self._statistics = statistics
        self._readers: dict[str, list[_Reader]] = {}
        others = set(cut.leaving) - cut.functions.keys()
        for kernel in cut.kernels:
            if kernel.function is not None:
                reader = _within(kernel, statistics[kernel.output].expected_largest)
                self._readers.setdefault(kernel.inputs[0], []).append(reader)
            elif kernel.op is not Op.MAXPOOL:
                others.update(kernel.inputs)
        for name, functions in cut.functions.items():
            self._readers.setdefault(name, []).extend(functions)
        for name in others:
            self._readers.pop(name, None)

    def __contains__(self, name: str) -> bool:
        """Whether only functions read the tensor *name*, on the device or the host."""
        return name in self._readers

    def exponent(self, names: Collection[str], dtype: DType) -> int | None:
        """The one exponent with the least error for all of *names*.

        None where something else reads one of them, or only zeros were seen.
        """
        if not names or not self._readers.keys() >= set(names):
            return None
        largest = max(self._statistics[name].expected_largest for name in names)
        covering = covering_exponent(largest, dtype.highest)
        if covering is None:
            return None
        tried = finer(covering)
        errors = sum(self._errors(name, tried, dtype) for name in sorted(names))
        return tried[int(np.argmin(errors))]

    def _errors(self, name: str, exponents: Sequence[int], dtype: DType) -> _Float:
        """The squared error of what reads *name*, for each of *exponents*."""
        values, counts = self._statistics[name].numbers
        # Few samples show less than use will, of which a function that saturates takes no harm.
        values = values * unseen(int(counts.sum()))
        levels = np.arange(dtype.lowest, dtype.highest + 1)
        errors = np.zeros(len(exponents))
        for reader in self._readers[name]:
            wanted = reader(values)
            for position, exponent in enumerate(exponents):
                scaled = np.ldexp(values, -exponent)
                steps = np.clip(np.rint(scaled), dtype.lowest, dtype.highest).astype(np.int64)
                # What is cut off counts double, as it does where no table follows.
                weights = np.where(np.abs(scaled - steps) > 0.5, 2.0, 1.0) * counts
                found = reader(np.ldexp(levels.astype(np.float64), exponent))
                off = found[:, steps - dtype.lowest] - wanted
                errors[position] += np.einsum("cn,cn,n->", off, off, weights) / len(wanted)
        return errors


def _within(table: Kernel, reach: float) -> _Reader:
    """The function of *table*, within the values that it has in use."""
    function = table.function
    assert function is not None
    low, high = max(table.lo, -reach), min(table.hi, reach)
    return lambda numbers: np.clip(function(numbers), low, high)
