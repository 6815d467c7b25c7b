"""Features on disk: an ``.npz`` that any program with numpy can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.bundle import Digest, read_arrays, serialize_arrays
from edged.errors import InputError, NotFoundError

__all__ = ["Features"]

_MAX_FILE_BYTES: Final = 2 << 30
_TEXTS: Final = ("names", "labels", "tensor", "program", "bundle")


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a featurizer makes of some images, and which featurizer it was.

    The file has the arrays ``features`` float32 [N, F], ``names`` and ``labels`` [N], and the texts
    ``tensor``, ``program`` and ``bundle``.

    Attributes:
        values: float32 [N, F], the feature tensor of each image in a row.
        names: of the images, their paths as they were given.
        labels: of the images, the folders that they were in.
        tensor: the name of the feature tensor.
        program: digest of the device's program that computed them.
        bundle: digest of the bundle it came from.
    """

    values: npt.NDArray[np.float32]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    tensor: str
    program: str
    bundle: Digest

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float32 or not self.values.size:
            raise InputError(
                f"cannot use features of {self.values.dtype} {list(self.values.shape)}; wanted"
                " float32 [N, F]"
            )
        if not len(self.values) == len(self.names) == len(self.labels):
            raise InputError(
                f"cannot use features: there are {len(self.values)} rows, {len(self.names)} names"
                f" and {len(self.labels)} labels; wanted the same number"
            )
        if not np.isfinite(self.values).all():
            raise InputError("cannot use features: some are no finite numbers")

    def save(self, path: Path) -> None:
        """Write the file; the same features give the same bytes.

        Raises:
            InputError: it cannot be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "features": self.values,
            "names": np.array(self.names),
            "labels": np.array(self.labels),
            "tensor": np.array(self.tensor),
            "program": np.array(self.program),
            "bundle": np.array(str(self.bundle)),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(serialize_arrays(arrays))
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read the file.

        Raises:
            NotFoundError: there is none.
            InputError: it is no file of features.
            LimitError: it unpacks to more than 2 GiB.
        """
        if not path.exists():
            raise NotFoundError(f"cannot read {path}: there is no such file")
        arrays = read_arrays(path, max_bytes=_MAX_FILE_BYTES)
        missing = {"features", *_TEXTS} - set(arrays)
        wrong = [name for name in _TEXTS if name in arrays and arrays[name].dtype.kind != "U"]
        if missing or wrong:
            raise InputError(
                f"cannot read features from {path}: {', '.join(sorted(missing) or wrong)} is"
                f" {'missing' if missing else 'no text'}; wanted a file that `edgectl featurize`"
                " wrote"
            )
        return cls(
            arrays["features"],
            tuple(arrays["names"].reshape(-1).tolist()),
            tuple(arrays["labels"].reshape(-1).tolist()),
            str(arrays["tensor"]),
            str(arrays["program"]),
            Digest.parse(str(arrays["bundle"])),
        )
