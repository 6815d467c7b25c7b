"""Arrays in an ``.npz``: written the same every time, read without trusting a number in it."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from edged.errors import BundleError, LimitError

__all__ = ["MAX_ARRAYS_BYTES", "read_arrays", "serialize_arrays"]

MAX_ARRAYS_BYTES: Final = 256 << 20
_MAX_ARRAYS: Final = 512
_MAX_HEADER: Final = 10_000
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def serialize_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """An ``.npz`` of *arrays* that `numpy.load` reads.

    `numpy.savez` would put the time of day into it, and compression differs between builds of
    zlib; so the entries are sorted, dated 1980 and stored as they are.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in sorted(arrays.items()):
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return file.getvalue()


def read_arrays(
    file: Path | BinaryIO, *, called: str = "", max_bytes: int = MAX_ARRAYS_BYTES
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz``, by name.

    Nothing is unpickled, and no memory is taken for a size that the file only claims.

    Args:
        called: how messages call a file that is open; others by their own.

    Raises:
        BundleError: it is no such file, is damaged, or an array has no plain element type.
        LimitError: it unpacks to more than *max_bytes*.
    """
    called = called or (file.name if isinstance(file, Path) else "the file")
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > max_bytes or len(entries) > _MAX_ARRAYS:
                raise LimitError(
                    f"cannot read {called}: it unpacks to {size} bytes in {len(entries)} "
                    f"arrays; at most {max_bytes} in {_MAX_ARRAYS} are taken"
                )
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in arrays:
                    raise BundleError(f"cannot read {called}: array {name!r} is there twice")
                arrays[name] = _array(archive.read(entry), f"{name!r} in {called}")
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise BundleError(f"cannot read {called}: it is no whole .npz ({error})") from error
    return arrays


def _array(data: bytes, what: str) -> npt.NDArray[Any]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file, max_header_size=_MAX_HEADER)
    else:
        raise BundleError(f"cannot read {what}: format {version}; wanted (1, 0) or (2, 0)")
    shape, fortran_order, dtype = header
    if dtype.hasobject or dtype.fields is not None or dtype.itemsize == 0:
        raise BundleError(f"cannot read {what}: its elements are {dtype}; wanted numbers")
    claimed, there = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if claimed != there or min(shape, default=0) < 0:
        raise BundleError(
            f"cannot read {what}: its shape {shape} of {dtype} takes {claimed} bytes, "
            f"it has {there}"
        )
    flat = np.frombuffer(data, dtype, offset=file.tell())
    array: npt.NDArray[Any] = flat.reshape(shape, order="F" if fortran_order else "C")
    return array
