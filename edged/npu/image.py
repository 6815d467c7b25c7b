"""The program image: the one file a device is given.

A header, a table of sections, and the sections (:class:`~edged.npu.regmap.Section`). The records
that they are made of are data in :mod:`edged.npu.regmap`, with what each field means.

The digest is blake2s over the whole file with the digest field zero. Parsing checks every offset,
count and index before it is used, so an image may come from anyone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from edged.errors import ImageError
from edged.npu._check import check_image
from edged.npu.graph import DType, Entry, Layer, Loop, Op, ProgramImage, Schedule, Tensor
from edged.npu.registers import Array
from edged.npu.regmap import (
    ABI,
    IMAGE_ENTRY,
    IMAGE_HEADER,
    IMAGE_LAYER,
    IMAGE_LOOP,
    IMAGE_MAGIC,
    IMAGE_OPERAND,
    IMAGE_SECTION,
    IMAGE_TENSOR,
    MAX_ARRAY_SIZE,
    MAX_ENTRIES,
    MAX_IMAGE_BYTES,
    Section,
)

__all__ = [
    "MAX_IMAGE_BYTES",
    "image_digest",
    "parse_image",
    "serialize_image",
    "weights_bytes",
]

_HEADER = struct.Struct(IMAGE_HEADER.format)
_SECTION = struct.Struct(IMAGE_SECTION.format)
_ENTRY = struct.Struct(IMAGE_ENTRY.format)
_TENSOR = struct.Struct(IMAGE_TENSOR.format)
_LAYER = struct.Struct(IMAGE_LAYER.format)
_OPERAND = struct.Struct(IMAGE_OPERAND.format)
_LOOP = struct.Struct(IMAGE_LOOP.format)
_ABI = struct.Struct("<H")
_ALIGN = 64
_INSTRUCTION = 32
_MAX_LOOPS = 5
_MAX_TENSORS = 1 << 16
_MAX_NAME = 1024
_MAX_DIM = 1 << 20
_WITHOUT_SHIFTS = (Op.MAXPOOL, Op.TABLE)
_LEFTS = {Op.ADD: 2, Op.CONCAT: 1, Op.RESCALE: 1, Op.COPY: 1}
"""How many rows of left shifts a layer has."""


def serialize_image(image: ProgramImage) -> bytes:
    """The file for *image*; parsing it again gives an equal image.

    Raises:
        ImageError: a name, a shape or a count that the format cannot hold.
    """
    weights = _Blob()
    body = bytearray(struct.pack("<II", len(image.tensors), len(image.layers)))
    for tensor in image.tensors:
        body += _pack_tensor(tensor)
    for layer in image.layers:
        body += _pack_layer(layer, weights)
    sections: tuple[tuple[Section, bytes], ...] = (
        (Section.ENTRIES, _pack_entries(image)),
        (Section.LAYERS, bytes(body)),
        (Section.WEIGHTS, bytes(weights.data)),
    )
    if image.code:
        sections += ((Section.CODE, image.code), (Section.PACKED, image.packed))
    offset = _aligned(_HEADER.size + len(sections) * _SECTION.size)
    table = bytearray()
    placed: list[tuple[int, bytes]] = []
    for kind, data in sections:
        table += _SECTION.pack(kind, google_crc32c.value(data), offset, len(data))
        placed.append((offset, data))
        offset = _aligned(offset + len(data))
    out = bytearray(offset)
    array = image.array
    out[: _HEADER.size] = _HEADER.pack(
        IMAGE_MAGIC,
        image.abi,
        array.ti,
        array.to,
        array.tp,
        len(sections),
        0,
        image.dram_bytes,
        len(out),
        image.schedule.activation_buffer,
        image.schedule.weight_buffer,
        image.schedule.accumulators,
        0,
        b"",
    )
    out[_HEADER.size : _HEADER.size + len(table)] = table
    for at, data in placed:
        out[at : at + len(data)] = data
    out[_HEADER.size - 32 : _HEADER.size] = image_digest(out)
    if len(out) > MAX_IMAGE_BYTES:
        raise ImageError(
            f"cannot write program image: it has {len(out)} bytes, at most {MAX_IMAGE_BYTES} fit"
        )
    return bytes(out)


def parse_image(data: bytes | memoryview) -> ProgramImage:
    """Read and check a program image. The arrays of its layers are views of *data*, read-only.

    Raises:
        ImageError: anything that is not as :func:`serialize_image` writes it, with its place.
    """
    view = memoryview(data).toreadonly().cast("B")
    if len(view) < _HEADER.size:
        raise ImageError(
            f"cannot read program image: {len(view)} bytes, a header has {_HEADER.size}"
        )
    magic = bytes(view[: len(IMAGE_MAGIC)])
    if magic != IMAGE_MAGIC:
        raise ImageError(
            f"cannot read program image: it starts with {magic!r}, not {IMAGE_MAGIC!r}"
        )
    # The magic and the ABI are there in every version; what follows is not.
    (abi,) = _ABI.unpack_from(view, len(IMAGE_MAGIC))
    if abi != ABI:
        raise ImageError(
            f"cannot read program image: ABI {abi}, this build reads ABI {ABI}; compile the model"
            " anew"
        )
    _, _, ti, to, tp, count, _, dram, total, *schedule, _, digest = _HEADER.unpack_from(view)
    if total != len(view) or total > MAX_IMAGE_BYTES:
        raise ImageError(
            f"cannot read program image: header says {total} bytes, there are {len(view)}"
        )
    if image_digest(view) != digest:
        raise ImageError("cannot read program image: its digest does not match its contents")
    if not all(0 < n <= MAX_ARRAY_SIZE for n in (ti, to, tp)):
        raise ImageError(f"cannot read program image: array {ti}x{to}x{tp} is out of range")
    sections = _parse_sections(view, count)
    weights = sections[Section.WEIGHTS]
    reader = _Reader(sections[Section.LAYERS], "layers")
    n_tensors, n_layers = reader.take(struct.Struct("<II"))
    if n_tensors > _MAX_TENSORS or n_layers > _MAX_TENSORS:
        raise ImageError(
            f"cannot read program image: {n_tensors} tensors and {n_layers} layers,"
            f" at most {_MAX_TENSORS} of each"
        )
    tensors = tuple(_parse_tensor(reader) for _ in range(n_tensors))
    layers = tuple(_parse_layer(reader, weights, tensors) for _ in range(n_layers))
    reader.end()
    code, packed = (bytes(sections.get(kind, b"")) for kind in (Section.CODE, Section.PACKED))
    if len(code) % _INSTRUCTION or len(packed) % _ALIGN or (packed and not code):
        raise ImageError(
            f"cannot read program image: code of {len(code)} bytes, packed {len(packed)}; wanted"
            f" multiples of {_INSTRUCTION} and {_ALIGN}"
        )
    entries = _parse_entries(
        _Reader(sections[Section.ENTRIES], "entries"), layers, len(tensors), len(code)
    )
    image = ProgramImage(
        Array(ti, to, tp),
        tensors,
        entries,
        dram,
        abi,
        bytes(digest),
        code,
        packed,
        Schedule(*schedule),
    )
    check_image(image, len(weights))
    return image


def image_digest(data: bytes | bytearray | memoryview) -> bytes:
    """The digest (blake2s, 32 bytes) that a sound image with these bytes has in its header."""
    view = memoryview(data)
    hasher = hashlib.blake2s(view[: _HEADER.size - 32])
    hasher.update(bytes(32))
    hasher.update(view[_HEADER.size :])
    return hasher.digest()


def _parse_sections(view: memoryview, count: int) -> dict[int, memoryview]:
    if not 3 <= count <= 16 or _HEADER.size + count * _SECTION.size > len(view):
        raise ImageError(f"cannot read program image: {count} sections")
    sections: dict[int, memoryview] = {}
    for i in range(count):
        kind, crc, offset, length = _SECTION.unpack_from(view, _HEADER.size + i * _SECTION.size)
        if offset > len(view) or length > len(view) - offset:
            raise ImageError(f"cannot read program image: section {kind} ends outside the file")
        data = view[offset : offset + length]
        if google_crc32c.value(bytes(data)) != crc:
            raise ImageError(f"cannot read program image: CRC of section {kind} does not match")
        if kind in sections:
            raise ImageError(f"cannot read program image: section {kind} stands twice")
        sections[kind] = data
    code = Section.CODE in sections
    for kind in Section:
        if kind not in sections and (code or kind not in (Section.CODE, Section.PACKED)):
            raise ImageError(f"cannot read program image: section {kind.name.lower()} is missing")
    return sections


def weights_bytes(layers: Iterable[Layer]) -> int:
    """Length of the weights section that *layers* make: what it takes of ``dram_bytes``."""
    blob = _Blob()
    for layer in layers:
        _pack_layer(layer, blob)
    return len(blob.data)


class _Blob:
    """The weights section while it grows."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, array: npt.NDArray[Any]) -> int:
        self.data += bytes(_aligned(len(self.data)) - len(self.data))
        offset = len(self.data)
        self.data += np.ascontiguousarray(array).tobytes()
        return offset


class _Reader:
    """A cursor over one section that never reads past its end."""

    def __init__(self, data: memoryview, section: str) -> None:
        self._data = data
        self._at = 0
        self._section = section

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.bytes(layout.size))

    def bytes(self, size: int) -> memoryview:
        if size > len(self._data) - self._at:
            raise ImageError(f"cannot read program image: section {self._section} is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self, size: int) -> str:
        if size > _MAX_NAME:
            raise ImageError(
                f"cannot read program image: a name of {size} bytes, at most {_MAX_NAME}"
            )
        try:
            return str(self.bytes(size), "utf-8")
        except UnicodeDecodeError as error:
            raise ImageError("cannot read program image: a name is not UTF-8") from error

    def end(self) -> None:
        if self._at != len(self._data):
            raise ImageError(
                f"cannot read program image: section {self._section} has"
                f" {len(self._data) - self._at} bytes too many"
            )


def _pack_tensor(tensor: Tensor) -> bytes:
    name = _name(tensor.name)
    try:
        fixed = _TENSOR.pack(
            tensor.dtype, tensor.exponent, len(name), *tensor.shape, tensor.address
        )
    except struct.error as error:
        raise ImageError(f"cannot write program image: tensor {tensor.name!r}: {error}") from error
    return fixed + name


def _parse_tensor(reader: _Reader) -> Tensor:
    dtype, exponent, length, h, w, c, address = reader.take(_TENSOR)
    name = reader.text(length)
    if dtype not in DType.__members__.values():
        raise ImageError(f"cannot read program image: tensor {name!r} has dtype {dtype}")
    tensor = Tensor(name, DType(dtype), (h, w, c), exponent, address)
    if not all(0 < n <= _MAX_DIM for n in (h, w, c)) or tensor.nbytes > MAX_IMAGE_BYTES:
        raise ImageError(f"cannot read program image: tensor {name!r} has shape {(h, w, c)}")
    return tensor


def _pack_layer(layer: Layer, weights: _Blob) -> bytes:
    name = _name(layer.name)
    at = [0, 0, 0]
    rows = 0
    if layer.op is Op.CONV:
        assert layer.weights is not None and layer.bias is not None
        rows = layer.weights.shape[0]
        at[0] = weights.add(layer.weights.astype(np.int8, copy=False))
        at[1] = weights.add(layer.bias.astype("<i4", copy=False))
    if layer.op is Op.TABLE:
        assert layer.table is not None
        rows = len(layer.table)
        at[0] = weights.add(layer.table)
    per_channel = False
    try:
        if layer.op not in _WITHOUT_SHIFTS:
            # Of a single number and one for each channel, the former is repeated.
            shifts = np.array(np.broadcast_arrays(layer.shift, *layer.lefts), np.uint8)
            if len(shifts) != 1 + _LEFTS.get(layer.op, 0):
                raise ValueError(f"{len(layer.lefts)} left shifts")
            per_channel = shifts.ndim > 1
            at[2] = weights.add(shifts)
        fixed = _LAYER.pack(
            layer.op,
            per_channel,
            len(layer.inputs),
            layer.output,
            len(name),
            0,
            *layer.kernel,
            *layer.stride,
            *layer.dilation,
            *layer.pad,
            layer.groups,
            layer.lo,
            layer.hi,
            layer.multiplier,
            *at,
            rows,
            *layer.grid,
            len(layer.loops),
            0,
            layer.source_start,
            layer.target_start,
        )
        operands = b"".join(_OPERAND.pack(index) for index in layer.inputs)
        operands += b"".join(
            _LOOP.pack(loop.count, loop.source, loop.target) for loop in layer.loops
        )
    except (struct.error, ValueError, OverflowError) as error:
        raise ImageError(f"cannot write program image: layer {layer.name!r}: {error}") from error
    return fixed + operands + name


def _parse_layer(reader: _Reader, weights: memoryview, tensors: tuple[Tensor, ...]) -> Layer:
    op, per_channel, n_inputs, output, n_name, _, *rest = reader.take(_LAYER)
    kh, kw, sh, sw, dh, dw, top, left, bottom, right, groups, lo, hi, multiplier, *rest = rest
    *at, rows, row, column, down, across, n_loops, _, source_start, target_start = rest
    inputs = tuple(reader.take(_OPERAND)[0] for _ in range(n_inputs))
    if n_loops > _MAX_LOOPS:
        raise ImageError(f"cannot read program image: {n_loops} loops, at most {_MAX_LOOPS}")
    loops = tuple(Loop(*reader.take(_LOOP)) for _ in range(n_loops))
    name = reader.text(n_name)
    if op not in Op.__members__.values():
        raise ImageError(f"cannot read program image: layer {name!r} has operation {op}")
    if any(index >= len(tensors) for index in (output, *inputs)):
        raise ImageError(f"cannot read program image: layer {name!r} names a tensor there is not")
    layer = Layer(
        Op(op),
        name,
        inputs,
        output,
        kernel=(kh, kw),
        stride=(sh, sw),
        pad=(top, left, bottom, right),
        dilation=(dh, dw),
        groups=groups,
        lo=lo,
        hi=hi,
        multiplier=multiplier,
        grid=(row, column, down, across),
        source_start=source_start,
        target_start=target_start,
        loops=loops,
    )
    if 0 in (down, across, *(loop.count for loop in loops)):
        raise ImageError(f"cannot read program image: layer {name!r} has a stride or a count of 0")
    if op == Op.TABLE:
        return _with_table(layer, weights, at[0], rows, tensors[output])
    if op == Op.CONV:
        layer = _with_weights(layer, weights, (at[0], at[1]), rows, tensors)
    if op in _WITHOUT_SHIFTS:
        return layer
    return _with_shifts(layer, weights, at[2], per_channel, tensors[output].shape[2])


def _with_shifts(
    layer: Layer, weights: memoryview, at: int, per_channel: int, channels: int
) -> Layer:
    rows = 1 + _LEFTS.get(layer.op, 0)
    size = rows * (channels if per_channel else 1)
    if per_channel > 1 or at + size > len(weights):
        raise ImageError(
            f"cannot read program image: shifts of layer {layer.name!r} are outside their section"
        )
    shifts = np.frombuffer(weights, np.uint8, size, at).reshape(rows, -1)
    shift, *lefts = shifts if per_channel else (int(row[0]) for row in shifts)
    return replace(layer, shift=shift, lefts=tuple(lefts))


def _with_table(layer: Layer, weights: memoryview, at: int, rows: int, output: Tensor) -> Layer:
    itemsize = output.dtype.numpy.itemsize
    if not 0 < rows <= _MAX_DIM or at % itemsize or at + rows * 256 * itemsize > len(weights):
        raise ImageError(
            f"cannot read program image: tables of layer {layer.name!r} are outside their section"
        )
    table = np.frombuffer(weights, output.dtype.numpy, rows * 256, at).reshape(rows, 256)
    return replace(layer, table=table)


def _with_weights(
    layer: Layer,
    weights: memoryview,
    at: tuple[int, int],
    c_out: int,
    tensors: tuple[Tensor, ...],
) -> Layer:
    kh, kw = layer.kernel
    if len(layer.inputs) != 1 or not 0 < c_out <= _MAX_DIM or 0 in (layer.groups, kh, kw):
        raise ImageError(f"cannot read program image: layer {layer.name!r} has no sound kernel")
    c_in = tensors[layer.inputs[0]].shape[2] // layer.groups
    size = c_out * kh * kw * c_in
    w_at, b_at = at
    if max(w_at + size, b_at + 4 * c_out) > len(weights) or b_at % 4:
        raise ImageError(
            f"cannot read program image: weights of layer {layer.name!r} are outside their section"
        )
    return replace(
        layer,
        weights=np.frombuffer(weights, np.int8, size, w_at).reshape(c_out, kh, kw, c_in),
        bias=np.frombuffer(weights, "<i4", c_out, b_at),
    )


def _pack_entries(image: ProgramImage) -> bytes:
    data = bytearray(struct.pack("<I", len(image.entries)))
    first = 0
    for number, entry in enumerate(image.entries):
        last = first + len(entry.layers)
        counts = len(entry.inputs), len(entry.outputs)
        try:
            data += _ENTRY.pack(first, last, *counts, entry.instruction)
            data += struct.pack(f"<{sum(counts)}I", *entry.inputs, *entry.outputs)
        except struct.error as error:
            raise ImageError(f"cannot write program image: entry {number}: {error}") from error
        first = last
    return bytes(data)


def _parse_entries(
    reader: _Reader, layers: tuple[Layer, ...], tensors: int, code: int
) -> tuple[Entry, ...]:
    """The entries, which have the *layers* among them.

    Args:
        tensors: how many there are.
        code: bytes of it.
    """
    (count,) = reader.take(struct.Struct("<I"))
    if not 1 <= count <= MAX_ENTRIES:
        raise ImageError(f"cannot read program image: {count} entries, wanted 1 … {MAX_ENTRIES}")
    entries: list[Entry] = []
    end = 0
    for number in range(count):
        first, last, n_inputs, n_outputs, instruction = reader.take(_ENTRY)
        indices = reader.take(struct.Struct(f"<{n_inputs + n_outputs}I"))
        if first != end or not first < last <= len(layers):
            raise ImageError(
                f"cannot read program image: entry {number} has layers {first} … {last} of"
                f" {len(layers)}; wanted one or more from {end} on"
            )
        if any(index >= tensors for index in indices):
            raise ImageError(
                f"cannot read program image: entry {number} names a tensor there is not"
            )
        if instruction * _INSTRUCTION >= max(code, 1):
            raise ImageError(
                f"cannot read program image: entry {number} begins at instruction {instruction},"
                f" there are {code // _INSTRUCTION}"
            )
        entries.append(
            Entry(layers[first:last], indices[:n_inputs], indices[n_inputs:], instruction)
        )
        end = last
    if end != len(layers):
        raise ImageError(
            f"cannot read program image: {len(layers) - end} layers belong to no entry"
        )
    reader.end()
    return tuple(entries)


def _name(text: str) -> bytes:
    data = text.encode()
    if len(data) > _MAX_NAME:
        raise ImageError(f"cannot write program image: name {text[:40]!r}… has {len(data)} bytes")
    return data


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN
