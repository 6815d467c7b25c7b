"""From photographs to features, as the device computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from edged._pipeline import Pipeline
from edged.bundle import FileName, VerifiedBundle, read_arrays
from edged.compiler import CompiledModel, compile_model
from edged.emulator import in_process
from edged.errors import InputError, ModelError
from edged.preprocess import Preprocess, image_to_array
from edged.transfer._cut import feature_tensor, featurizer_model

__all__ = ["Featurizer", "Progress", "compile_for", "load_model"]

Progress = Callable[[float, str], None]


def _silent(_fraction: float, _step: str) -> None:
    pass


class Featurizer:
    """A bundle's network up to its feature tensor, compiled, on the emulator's executor.

    No daemon, device or emulator process takes part: the program image is run in this process by
    the executor that the emulated device uses, and gives the same integers to the bit as a device.

    Attributes:
        tensor: the name of the feature tensor.
        program: digest of the program image.
    """

    def __init__(self, compiled: CompiledModel, spec: Preprocess, tensor: str) -> None:
        self.tensor = tensor
        self.program = compiled.image.digest.hex()
        self._spec = spec
        self._device = in_process(compiled.image)
        self._pipeline = Pipeline(compiled.image, compiled.host)

    @classmethod
    def of(
        cls, bundle: VerifiedBundle, tensor: str | None = None, progress: Progress = _silent
    ) -> Self:
        """Compile *bundle*'s network up to *tensor*.

        Args:
            bundle: one that takes photographs.
            tensor: by default what the model's metadata name, else what its last layer with
                weights reads.
            progress: told the fraction done and the step.

        Raises:
            InputError: the bundle takes no photographs.
            NotFoundError: there is no such tensor; says which have names like it.
            ModelError: the model cannot be cut or compiled.
        """
        spec = bundle.manifest.preprocess
        if spec is None:
            raise InputError(
                f"cannot featurize with {bundle.manifest}: it takes tensors and no photographs;"
                " pack it with --preprocess"
            )
        model = load_model(bundle)
        tensor = tensor or feature_tensor(model)
        return cls(compile_for(bundle, featurizer_model(model, tensor), progress), spec, tensor)

    def __call__(self, photograph: bytes) -> npt.NDArray[np.float32]:
        """The features [F] of a JPEG or PNG.

        Raises:
            RequestError, LimitError: the photograph cannot be decoded.
        """
        pixels = image_to_array(photograph, self._spec)
        (features,) = self._pipeline.run({self._spec.input: pixels}, self._device).values()
        return np.asarray(features, np.float32).reshape(-1)


def load_model(bundle: VerifiedBundle) -> onnx.ModelProto:
    """The bundle's model.

    Raises:
        ModelError: it is no ONNX file.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(_file(bundle, FileName.MODEL).read_bytes())
    except DecodeError as error:
        raise ModelError(f"cannot read the model of {bundle.manifest}: it is no ONNX") from error
    return model


def compile_for(
    bundle: VerifiedBundle, model: onnx.ModelProto, progress: Progress = _silent
) -> CompiledModel:
    """Compile *model* with the calibration samples of *bundle*, as edged does when it loads it."""
    path = _file(bundle, FileName.CALIBRATION)
    samples: dict[str, npt.NDArray[Any]] | None = read_arrays(path) if path.exists() else None
    return compile_model(model.SerializeToString(), calibration=samples, progress=progress)


def _file(bundle: VerifiedBundle, name: FileName) -> Path:
    return bundle.folder / name
