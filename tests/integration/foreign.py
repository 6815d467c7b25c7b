"""Clients that know nothing of edged: protocol buffers written and read by hand.

Field numbers are those of the published ``predict.proto``, ``model.proto``, ``tensor.proto``,
``tensor_shape.proto`` and ``types.proto``, written down a second time here: a mistake in edged's
own messages must not agree with itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PREDICT = "/tensorflow.serving.PredictionService/Predict"

DT_FLOAT, DT_UINT8, DT_STRING = 1, 4, 7

Value = int | bytes


def message(*fields: tuple[int, Value]) -> bytes:
    """(field number, varint or bytes) … → the message."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message of varints and bytes, which all of these are."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if key & 7 == 0:
            yield key >> 3, value
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            yield key >> 3, data[at : at + value]
            at += value


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def tensor(dtype: int, shape: Sequence[int], *values: tuple[int, Value]) -> bytes:
    """A TensorProto."""
    return message((1, dtype), (2, message(*((2, message((1, size))) for size in shape))), *values)


def images(*photos: bytes) -> bytes:
    """DT_STRING [N] in string_val."""
    return tensor(DT_STRING, [len(photos)], *((8, photo) for photo in photos))


def content(dtype: int, shape: Sequence[int], data: bytes) -> bytes:
    """As tf.make_tensor_proto sends an array: tensor_content."""
    return tensor(dtype, shape, (4, data))


def floats(shape: Sequence[int], values: Sequence[float]) -> bytes:
    """As the C# client sends floats: float_val."""
    return tensor(DT_FLOAT, shape, (5, struct.pack(f"<{len(values)}f", *values)))


def request(inputs: dict[str, bytes], *, empty_spec: bool = False) -> bytes:
    """A PredictRequest: without a model_spec as from Python, or with an empty one as from C#."""
    spec = [(1, b"")] if empty_spec else []
    return message(
        *spec,
        *((2, message((1, name.encode()), (2, value))) for name, value in inputs.items()),
    )


@dataclass(frozen=True)
class Floats:
    """What the C# client takes out of a tensor: it looks at these fields and no others."""

    shape: tuple[int, ...]
    float_val: tuple[float, ...]

    def of_rank(self, rank: int) -> tuple[float, ...]:
        """The values, for a caller that asked for an array of exactly so many dimensions."""
        assert len(self.shape) == rank, f"expected rank {rank}, was {len(self.shape)}"
        return self.float_val


def outputs(data: bytes) -> dict[str, Floats]:
    """Name → floats of a PredictResponse, in the order on the wire."""
    found = {}
    for number, entry in fields(data):
        if number == 1 and isinstance(entry, bytes):
            parts = dict(fields(entry))
            name, value = parts[1], parts[2]
            assert isinstance(name, bytes) and isinstance(value, bytes)
            assert name.decode() not in found
            found[name.decode()] = read_floats(value)
    return found


def read_floats(data: bytes) -> Floats:
    shape: list[int] = []
    values: list[float] = []
    for number, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            for dim, sizes in fields(value):
                assert dim == 2 and isinstance(sizes, bytes)
                size = dict(fields(sizes)).get(1, 0)
                assert isinstance(size, int)
                shape.append(size)
        elif number == 5 and isinstance(value, bytes):
            values.extend(struct.unpack(f"<{len(value) // 4}f", value))
    return Floats(tuple(shape), tuple(values))
