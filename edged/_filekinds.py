"""What a file or folder is that is no model of ours, by its first bytes or its name, and the cure.

Two tables, for files and for folders. Nothing is parsed: at most `HEAD_BYTES` are looked at, and
the names in a folder.

Sources of the signatures: the formats' own documents and readers, as named beside each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

__all__ = [
    "HEAD_BYTES",
    "MODEL_SUFFIXES",
    "FileKind",
    "compression_of",
    "kind_of",
    "kind_of_folder",
]

HEAD_BYTES: Final = 4096
MODEL_SUFFIXES: Final = (".edgemodel", ".onnx")


@dataclass(frozen=True, slots=True)
class FileKind:
    """What something is, and what to do with it.

    Attributes:
        what: with its article, "a web page".
        cure: the next step; ``NAME`` stands for the file, ``STEM`` for it without its suffix.
        silent: nobody expects an answer to such a file, as to a README.
        is_data: it is likely to be the data of an ONNX model that comes too.
    """

    what: str
    cure: str
    silent: bool = False
    is_data: bool = False

    def said_of(self, name: str) -> str:
        """One line: what *name* is, and what to do."""
        stem = name.rpartition(".")[0] or name
        return f"it is {self.what}; {self.cure.replace('NAME', name).replace('STEM', stem)}"


_UNPACK: Final = "unpack it, and copy the .onnx file that is inside"
_TORCH: Final = FileKind(
    "a PyTorch model",
    "export it where its Python code is: torch.onnx.export(model.eval(), example, 'STEM.onnx')",
)
_TFLITE: Final = FileKind(
    "a TensorFlow Lite model",
    "convert it: python -m tf2onnx.convert --tflite NAME --output STEM.onnx (the float model it was"
    " made from gives better answers)",
)
_KERAS: Final = FileKind(
    "a Keras model",
    "export it where TensorFlow is: keras.models.load_model('NAME').export('STEM', format='onnx'),"
    " or as a SavedModel for edgectl convert",
)
_ENGINE: Final = FileKind(
    "a TensorRT engine, which runs on the GPU that it was built on only",
    "copy the ONNX file that it was built from",
)
_OPENVINO: Final = FileKind("an OpenVINO model", "copy the ONNX file that it was converted from")
_CAFFE: Final = FileKind(
    "a Caffe model", "convert it to ONNX, for instance with MMdnn, and copy that"
)
_DATA: Final = FileKind(
    "data, as models keep in a file of their own",
    "it is taken together with the .onnx file that names it: copy that too",
    is_data=True,
)
_PHOTOGRAPH: Final = FileKind(
    "an image",
    "this folder takes models: edgectl score NAME asks the one that serves, and edgectl pack"
    " --calibration takes photographs",
)
_LABELS: Final = FileKind(
    "text, perhaps labels",
    "labels go into a bundle: edgectl pack MODEL.onnx --labels NAME --name MODEL --version 1.0.0",
)
_ARRAYS: Final = FileKind(
    "arrays of NumPy",
    "inputs to calibrate with go into a bundle: edgectl pack MODEL.onnx --calibration NAME",
)
_SETTINGS: Final = FileKind(
    "settings of another program", "edged reads none of it; what a model needs is in its bundle"
)
_PAGE: Final = FileKind(
    "a web page and no model",
    "whoever downloaded it got the page about the file, or an error: download the file itself (on"
    " GitHub and Hugging Face, the address has 'raw' or 'resolve' in it)",
)
_COMPRESSED: Final = {
    # RFC 1952; bzip2's manual; The .xz File Format 1.2; RFC 8878.
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

# Offset, bytes, and what has them there.
_SIGNATURES: Final[tuple[tuple[int, bytes, FileKind], ...]] = (
    (
        # git-lfs, docs/spec.md
        0,
        b"version https://git-lfs.github.com/spec/",
        FileKind(
            "a Git LFS pointer, three lines of text that stand for the file",
            "fetch the file itself: git lfs pull in the clone, or download it from its page",
        ),
    ),
    (0, b"\x89HDF\r\n\x1a\n", _KERAS),  # HDF5 File Format Specification
    (4, b"TFL3", _TFLITE),  # TensorFlow, schema.fbs: file_identifier
    (
        4,
        b"ORTM",  # ONNX Runtime, ort.fbs: file_identifier
        FileKind("a model in ONNX Runtime's own format", "copy the .onnx file it was made from"),
    ),
    (0, b"ftrt", _ENGINE),  # the magic tag that TensorRT's runtime asks for
    (0, b"ptrt", _ENGINE),
    (
        0,
        b"GGUF",  # ggml, docs/gguf.md
        FileKind("a language model for llama.cpp", "edged runs networks of images and signals"),
    ),
    (
        0,
        b"RKNN",
        FileKind("a model for Rockchip's NPU", "copy the ONNX file that it was converted from"),
    ),
    (
        0,
        b"\x01HEF",
        FileKind("a model for Hailo's chips", "copy the ONNX file that it was compiled from"),
    ),
    (
        0,
        b"7767517\n",  # ncnn, the magic number of param files
        FileKind("a model of ncnn", "copy the ONNX file that it was converted from"),
    ),
    (0, b"\x80\x02", _TORCH),  # Python's pickle, protocol 2, as torch.save wrote before 1.6
    (0, b"\x80\x04\x95", FileKind("a Python pickle", "export the model that is in it to ONNX")),
    (0, b"\x93NUMPY", _ARRAYS),  # NumPy, the .npy format
    (0, b"\xff\xd8\xff", _PHOTOGRAPH),
    (0, b"\x89PNG\r\n\x1a\n", _PHOTOGRAPH),
    (0, b"%PDF-", FileKind("a PDF document", "this folder takes models; remove it")),
    (0, b"\x7fELF", FileKind("a program or library", "this folder takes models; remove it")),
    (0, b"MZ", FileKind("a program for Windows", "this folder takes models; remove it")),
    *(
        (
            0,
            magic,
            FileKind(
                f"compressed by {how}", f"unpack it ({how} -dc NAME), and copy the model inside"
            ),
        )
        for magic, how in _COMPRESSED.items()
    ),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", FileKind("a RAR archive", _UNPACK)),
)

# The name of the first member of a ZIP archive (APPNOTE.TXT, 4.3.7), with fnmatch's patterns.
_ZIPPED: Final = (
    (("*/data.pkl", "*/.format_version", "*/byteorder", "*/version", "*/constants.pkl"), _TORCH),
    (("metadata.json", "config.json", "model.weights.h5"), _KERAS),
    (("*.npy",), _ARRAYS),
    (("*",), FileKind("a ZIP archive", _UNPACK)),
)
_ZIP: Final = b"PK\3\4"

# Where the bytes say nothing, the suffix does.
_BY_SUFFIX: Final[tuple[tuple[tuple[str, ...], FileKind], ...]] = (
    ((".pt", ".pth", ".ckpt", ".torchscript", ".pt2", ".pte"), _TORCH),
    ((".tflite", ".lite"), _TFLITE),
    ((".h5", ".keras", ".hdf5"), _KERAS),
    ((".engine", ".plan", ".trt"), _ENGINE),
    (
        (".pb", ".pbtxt", ".graphdef"),
        FileKind(
            "a TensorFlow graph or its text",
            "convert a frozen graph: edgectl convert NAME --name STEM -o STEM.edgemodel",
        ),
    ),
    (
        (".mlmodel", ".mlpackage", ".mlmodelc"),
        FileKind("a Core ML model", "copy the ONNX file that it was converted from"),
    ),
    ((".caffemodel", ".prototxt"), _CAFFE),
    (
        (".weights", ".cfg"),
        FileKind("a Darknet model", "convert it to ONNX, and copy that"),
    ),
    (
        (".pdmodel", ".pdiparams"),
        FileKind(
            "a PaddlePaddle model",
            "convert it: paddle2onnx --model_dir . --model_filename STEM.pdmodel"
            " --params_filename STEM.pdiparams --save_file STEM.onnx",
        ),
    ),
    (
        (".safetensors",),
        FileKind(
            "weights without their network",
            "export the model to ONNX: optimum-cli export onnx --model FOLDER OUT/",
        ),
    ),
    ((".xmodel",), FileKind("a model for Vitis AI", "copy the ONNX file that it was made from")),
    ((".npz", ".npy"), _ARRAYS),
    ((".data", ".onnx_data", ".bin", ".dat", ".raw", ".params"), _DATA),
    (
        (".tar", ".zip", ".tgz", ".gz", ".7z", ".rar", ".xz", ".bz2", ".zst"),
        FileKind("an archive", _UNPACK),
    ),
    ((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"), _PHOTOGRAPH),
    ((".txt", ".names", ".labels", ".csv"), _LABELS),
    ((".json", ".yaml", ".yml", ".toml", ".ini"), _SETTINGS),
    (
        (".py", ".ipynb", ".sh"),
        FileKind("a program", "run it where it belongs, and copy the .onnx file that it exports"),
    ),
)

_SILENT: Final = FileKind("a text for people", "", silent=True)
_SILENT_NAMES: Final = (
    *("readme", "readme.*", "license", "license.*", "licence", "licence.*", "notice", "copying"),
    *("*.md", "*.rst", "changelog*", "sha256sums*", "md5sums*", "*.sha256", "*.md5", "*.asc"),
)

_EMPTY: Final = FileKind("empty", "its copy or download failed; copy it again")
_BUNDLE: Final = FileKind("a bundle, if any", "rename it to STEM.edgemodel and it is tried as one")
_UNKNOWN: Final = FileKind(
    "nothing that edged knows", f"it takes files that end in {' and '.join(MODEL_SUFFIXES)}"
)

# Folders: each pattern of the first part has to match one of the paths inside.
_FOLDERS: Final[tuple[tuple[tuple[str, ...], FileKind], ...]] = (
    (
        ("oci-layout", "index.json"),
        FileKind("a bundle that is unpacked", "pack it: tar -C NAME -cf NAME.edgemodel ."),
    ),
    (
        ("*saved_model.pb",),
        FileKind(
            "a TensorFlow SavedModel",
            "convert it: edgectl convert NAME --name NAME -o NAME.edgemodel",
        ),
    ),
    (
        ("*saved_model.pbtxt",),
        FileKind("a TensorFlow SavedModel as text", "save it anew, and use edgectl convert"),
    ),
    (
        ("*.safetensors", "*config.json"),
        FileKind(
            "a Hugging Face model without ONNX",
            "export it: optimum-cli export onnx --model NAME OUT/, and copy OUT",
        ),
    ),
    (
        ("*pytorch_model*.bin", "*config.json"),
        FileKind(
            "a Hugging Face model without ONNX",
            "export it: optimum-cli export onnx --model NAME OUT/, and copy OUT",
        ),
    ),
    (
        ("*config.pbtxt", "*.plan"),
        FileKind(
            "a Triton repository with a TensorRT engine, which runs on its own GPU only",
            "put the ONNX file that it was built from into NAME/1/model.onnx",
        ),
    ),
    (
        ("*config.pbtxt", "*.pt"),
        FileKind(
            "a Triton repository with a PyTorch model",
            "export it to ONNX as NAME/1/model.onnx, and it is taken",
        ),
    ),
    (
        ("*config.pbtxt",),
        FileKind(
            "a Triton repository without an ONNX model",
            "edged takes those with NAME/1/model.onnx",
        ),
    ),
    (("*.xml", "*.bin"), _OPENVINO),
    (("*.pdmodel",), FileKind("a PaddlePaddle model", "convert it: paddle2onnx --model_dir NAME")),
    (("*.mlmodel",), FileKind("a Core ML model", "copy the ONNX file that it was made from")),
    (("*.tflite",), _TFLITE),
    (("*.h5",), _KERAS),
    (("*.keras",), _KERAS),
    (("*.pth",), _TORCH),
    (("*.pt",), _TORCH),
    (("*.engine",), _ENGINE),
    (
        ("*.[jJ][pP]*[gG]",),
        FileKind(
            "a folder of photographs",
            "they can calibrate a model: edgectl pack MODEL.onnx --calibration NAME",
        ),
    ),
    (
        ("*.[pP][nN][gG]",),
        FileKind(
            "a folder of photographs",
            "they can calibrate a model: edgectl pack MODEL.onnx --calibration NAME",
        ),
    ),
)
_FOLDER: Final = FileKind(
    "a folder without a model",
    f"it takes files that end in {' and '.join(MODEL_SUFFIXES)}, and folders with one of them",
)
_EMPTY_FOLDER: Final = FileKind("an empty folder", "copy a model into it, or remove it")


def kind_of(name: str, head: bytes) -> FileKind | None:
    """What a file is; None for what may be a model by its bytes and its name.

    Args:
        name: the file's.
        head: its first `HEAD_BYTES`, or all of it where it has less.
    """
    low = name.lower()
    is_model = low.endswith(MODEL_SUFFIXES)
    if not is_model and any(fnmatchcase(low, pattern) for pattern in _SILENT_NAMES):
        return _SILENT
    if not head:
        return _EMPTY
    by_content = _by_content(low, head)
    if by_content is not None or is_model:
        return by_content
    by_name = next((kind for ends, kind in _BY_SUFFIX if low.endswith(ends)), None)
    return by_name or _UNKNOWN


def kind_of_folder(files: Collection[str]) -> FileKind:
    """What a folder is in which there is no model, by the paths of its *files*."""
    if not files:
        return _EMPTY_FOLDER
    for patterns, kind in _FOLDERS:
        if all(any(fnmatchcase(file, pattern) for file in files) for pattern in patterns):
            return kind
    return _FOLDER


def compression_of(head: bytes) -> str | None:
    """The program that compressed what begins with *head*; it unpacks with ``-dc``."""
    return next((how for magic, how in _COMPRESSED.items() if head.startswith(magic)), None)


def _by_content(low: str, head: bytes) -> FileKind | None:
    for offset, magic, kind in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head.startswith(_ZIP):
        return _first(_ZIPPED, _first_member(head))
    if head[257:262] == b"ustar":  # POSIX.1-1988
        return None if low.endswith(".edgemodel") else _BUNDLE
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return _PAGE
    if start.startswith(b"<?xml"):
        return _OPENVINO if b"<net" in head[:512] else FileKind("XML and no model", "remove it")
    if start.startswith((b'{"', b"{\n")) and low.endswith(MODEL_SUFFIXES):
        return FileKind(
            "JSON text and no model", "a server may have answered with an error; look into it"
        )
    if head[8:10] == b'{"' and low.endswith((*MODEL_SUFFIXES, ".safetensors")):
        return next(kind for ends, kind in _BY_SUFFIX if ".safetensors" in ends)
    return None


def _first(table: Iterable[tuple[tuple[str, ...], FileKind]], name: str) -> FileKind:
    return next(
        kind for patterns, kind in table if any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def _first_member(head: bytes) -> str:
    length = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + length].decode("utf-8", "replace")
