"""How the answers of a self-test are judged, one output at a time.

Quantities may be off by a tolerance. Of labels, indices and masks some may differ, by whatever: 7
is no better than 3 in place of 8, and where two classes are nearly alike, 8 bits decide otherwise
than float does. They are judged by the share of elements that differ, over all samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edged.errors import DeviceError

__all__ = ["Judge"]

_RANGE_TOLERANCE = 0.25
_CURE = (
    "; if other models pass on this device, 8 bits are too few for this one as it was calibrated:"
    " pack it with typical inputs (edgectl pack --calibration), or allow more (--tolerance)"
)


class Judge:
    """Compares one output with what is expected of it, sample by sample.

    An output is discrete if integers are expected of it, be they written as floats in the answer.
    It passes if at most *tolerance* of its elements differ, or one element; and also
    if none is off by more than a quarter of the expected range, as in an image of bytes.
    """

    def __init__(self, name: str, expected: npt.NDArray[Any], tolerance: float) -> None:
        """*expected* has all samples, stacked along the first dimension."""
        self._name = name
        self._expected = expected
        self._tolerance = tolerance
        self._discrete = expected.dtype.kind in "iub" and tolerance <= 1
        self._range = float(np.ptp(expected.astype(np.float64))) if self._discrete else 0.0
        self._differing = self._seen = 0
        self._off = 0.0

    def add(self, sample: int, found: npt.NDArray[Any]) -> None:
        """Compare the answer to one sample, [1, …].

        Raises:
            DeviceError: its shape is another, or a quantity is off by more than the tolerance.
        """
        expected = self._expected[sample : sample + 1]
        where = f"cannot trust the device: in sample {sample} of the self-test, output"
        if found.shape != expected.shape:
            raise DeviceError(
                f"{where} {self._name!r} has shape {found.shape}, wanted {expected.shape}"
            )
        off = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        # A NaN is never within the tolerance.
        if not self._discrete and not (off <= self._tolerance).all():
            raise DeviceError(
                f"{where} {self._name!r} is off by {off.max():.4g}, the tolerance is"
                f" {self._tolerance:.4g}{_CURE}"
            )
        self._differing += int((~(off < 0.5)).sum())
        self._seen += off.size
        self._off = max(self._off, float(off.max(initial=0.0)))

    def finish(self) -> None:
        """Judge a discrete output by all that was seen of it.

        Raises:
            DeviceError: too many elements differ.
        """
        enough = self._differing <= max(self._tolerance * self._seen, 1)
        if not self._discrete or enough or self._off <= self._range * _RANGE_TOLERANCE:
            return
        raise DeviceError(
            f"cannot trust the device: in the self-test, {self._differing} of {self._seen} elements"
            f" of output {self._name!r} differ, {self._tolerance:.0%} may{_CURE}"
        )
