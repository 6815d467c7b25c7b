"""What people drop that is no model: each is named, with what to do next."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from intake.folder import rescans, running, until_status

from edged._filekinds import HEAD_BYTES, kind_of


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


def tarred(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 14196\n" % 0
PAGE = b"\n<!DOCTYPE html><html>404</html>"

KINDS = [
    ("lfs.onnx", LFS, "a Git LFS pointer", "git lfs pull"),
    ("lfs.pt", LFS, "a Git LFS pointer", "git lfs pull"),
    ("page.onnx", PAGE, "a web page", "'raw' or 'resolve'"),
    ("error.onnx", b'{"error": "404"}', "JSON text", "look into it"),
    ("empty.onnx", b"", "empty", "copy it again"),
    ("empty.edgemodel", b"", "empty", "copy it again"),
    ("net.pt", zipped("net/data.pkl"), "a PyTorch model", "torch.onnx.export(model.eval()"),
    ("net.pth", b"\x80\x02\x8a\x0a", "a PyTorch model", "'net.onnx'"),
    ("net.onnx", zipped("archive/data.pkl"), "a PyTorch model", "torch.onnx.export"),
    ("net.tflite", b"\x1c\0\0\0TFL3", "a TensorFlow Lite model", "--tflite net.tflite"),
    ("net.onnx", b"\x1c\0\0\0TFL3", "a TensorFlow Lite model", "--output net.onnx"),
    ("net.h5", b"\x89HDF\r\n\x1a\n", "a Keras model", "load_model('net.h5')"),
    ("net.keras", zipped("metadata.json", "config.json"), "a Keras model", "format='onnx'"),
    ("net.engine", b"ftrt\0\0", "a TensorRT engine", "the ONNX file that it was built from"),
    ("net.plan", b"\1\2\3", "a TensorRT engine", "the ONNX file that it was built from"),
    ("net.xml", b'<?xml version="1.0"?><net name="x">', "an OpenVINO model", "ONNX file"),
    ("net.pb", b"\n\x0b\n\x05input", "a TensorFlow graph", "edgectl convert net.pb --name net"),
    ("net.zip", zipped("a.onnx"), "a ZIP archive", "unpack it"),
    ("net.tar.gz", b"\x1f\x8b\x08", "compressed by gzip", "gzip -dc net.tar.gz"),
    ("net.edgemodel", b"\x1f\x8b\x08", "compressed by gzip", "gzip -dc net.edgemodel"),
    ("net.tar", tarred("oci-layout"), "a bundle", "rename it to net.edgemodel"),
    ("net.onnx", tarred("oci-layout"), "a bundle", "rename it to net.edgemodel"),
    ("x.safetensors", b"\x40\0\0\0\0\0\0\0{}", "weights without", "optimum-cli export onnx"),
    ("net.onnx", b'\x40\0\0\0\0\0\0\0{"a"', "weights without", "optimum-cli export onnx"),
    ("net.ort", b"\x08\0\0\0ORTM", "ONNX Runtime's own format", "the .onnx file"),
    ("net.gguf", b"GGUF\3\0\0\0", "llama.cpp", "images and signals"),
    ("inputs.npz", zipped("x.npy"), "arrays of NumPy", "--calibration inputs.npz"),
    ("inputs.npy", npy(), "arrays of NumPy", "--calibration inputs.npy"),
    ("photo.jpg", b"\xff\xd8\xff\xe0", "an image", "edgectl score photo.jpg"),
    ("labels.txt", b"ant\nbee\n", "perhaps labels", "--labels labels.txt"),
    ("config.json", b"{}", "settings of another program", "edged reads none"),
    ("net.onnx.data", b"\0" * 40, "data, as models keep", "the .onnx file that names it"),
    ("net.what", b"?", "nothing that edged knows", ".edgemodel and .onnx"),
]


@pytest.mark.parametrize(("name", "content", "what", "cure"), KINDS)
def test_what_is_no_model_is_named(name: str, content: bytes, what: str, cure: str) -> None:
    kind = kind_of(name, content[:HEAD_BYTES])
    assert kind is not None
    said = kind.said_of(name)
    assert what in said
    assert cure in said
    assert "NAME" not in said and "STEM" not in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("net.onnx", b"\x08\x08\x12\x07pytorch"),
        ("net.edgemodel", tarred("./oci-layout")),
        ("NET.ONNX", b"\x08\x08"),
        ("net.onnx", b"\0"),  # no model, but the reader says that better
    ],
)
def test_what_may_be_a_model_is_left_to_its_reader(name: str, content: bytes) -> None:
    assert kind_of(name, content) is None


def test_no_bytes_are_too_odd(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.edgemodel", "a", "a.zip"):
        for content in (b"PK\3\4", b"PK\3\4" + b"\xff" * 40, b"\xef\xbb\xbf", b" ", b"\0" * 4096):
            kind_of(name, content)


async def test_each_is_told_and_only_models_are_moved(drop, acceptor):
    drop.mkdir()
    (drop / "page.onnx").write_bytes(PAGE)
    (drop / "net.pt").write_bytes(zipped("net/data.pkl"))
    async with running(drop, acceptor):
        told = await until_status(drop, "page.onnx", "rejected: cannot take page.onnx: it is a web")
        assert "moved to rejected/page.onnx" in told
        await until_status(drop, "net.pt", "ignored: it is a PyTorch model")
    assert (drop / "net.pt").exists()
    assert acceptor.taken == []


async def test_what_nobody_asks_about_gets_no_answer(drop, acceptor):
    names = {
        *(".DS_Store", "._net.onnx", "Thumbs.db", "desktop.ini", "~$tmp", "net.onnx.part"),
        *("net.onnx.crdownload", "README", "README.md", "LICENSE", "SHA256SUMS", "net.onnx.asc"),
    }
    drop.mkdir()
    for name in names:
        (drop / name).write_bytes(b"x")
    (drop / "__MACOSX").mkdir()
    async with running(drop, acceptor) as intake:
        await rescans(drop, intake)
    assert {path.name for path in drop.iterdir()} == names | {"__MACOSX"}
