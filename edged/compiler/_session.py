"""Running float graphs on the host, with the errors of ONNX Runtime translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from edged._onnxruntime import session
from edged.errors import ModelError

__all__ = ["FloatSession", "run_once"]

# ONNX Runtime has no class of its own for it: its arena says the one, the C++ library the other.
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc")


class FloatSession:
    """A float model, ready to run.

    One thread: sums do not then depend on the number of cores, so that a model compiles to the
    same bytes everywhere that has the same instructions.
    """

    def __init__(self, model: bytes, purpose: str) -> None:
        """Raises ModelError: ONNX Runtime does not take *model*; *purpose* says what it was for."""
        self._purpose = purpose
        try:
            self._session = session(model)
        except Exception as error:  # ONNX Runtime's own errors share no base but this.
            raise self._translated(error) from error

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The outputs in the order of the model's.

        Raises:
            ModelError: an operator fails on these inputs.
            MemoryError: there is not enough for what they need.
        """
        try:
            return list(self._session.run(None, dict(inputs)))
        except Exception as error:  # As above.
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            return MemoryError(str(error))
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return ModelError(f"cannot compile model: ONNX Runtime did not {self._purpose}: {first}")


def run_once(model: bytes, purpose: str) -> list[npt.NDArray[Any]]:
    """Run a *model* that has no inputs."""
    return FloatSession(model, purpose).run({})
