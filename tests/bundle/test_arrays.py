"""Arrays from a file that anyone may have written."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edged.bundle import read_arrays
from edged.errors import BundleError, LimitError


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def write(path: Path, entries: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(24.0).reshape(2, 3, 4),
        "b": np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3)),
        "c": np.float32(3.5).reshape(()),
        "d": np.zeros((0, 5), bool),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], object))
    with pytest.raises(BundleError, match="its elements are object; wanted numbers"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n", bytes(8)),
            "takes 8000000000000 bytes, it has 8",
        ),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}\n", bytes(8)), "shape"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}\n", bytes(15)), "it has 15"),
        (npy("{'descr': '<f8'}\n"), "no whole .npz"),
        (npy("__import__('os').abort()\n"), "no whole .npz"),
        (b"hello", "no whole .npz"),
        (b"", "no whole .npz"),
        (b"\x93NUMPY\x09\x00", r"format \(9, 0\)"),
    ],
)
def test_claims_are_checked(tmp_path: Path, entry: bytes, says: str) -> None:
    path = write(tmp_path / "x.npz", {"a.npy": entry})
    with pytest.raises(BundleError, match=says):
        read_arrays(path)


def test_a_bomb_is_refused_by_what_it_unpacks_to(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", {"a.npy": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(LimitError, match="unpacks to 10000000 bytes"):
        read_arrays(path, max_bytes=9_999_999)


def test_no_zip_and_a_cut_one(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    file = io.BytesIO()
    np.savez(file, a=np.zeros(100))
    for content in (b"", b"hello", file.getvalue()[:-30], b"PK\5\6"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"cannot read x\.npz"):
            read_arrays(path)
