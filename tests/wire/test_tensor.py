"""Every encoding of a tensor, read and written, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edged import wire
from edged.errors import LimitError, RequestError
from edged.wire import DataType, TensorProto

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


def tensor(dtype: int, shape: list[int], **fields: Any) -> TensorProto:
    message = TensorProto(dtype=dtype, **fields)
    message.tensor_shape.SetInParent()
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


@given(st.data(), st.sampled_from(DTYPES), st.booleans())
def test_arrays_come_back_as_they_were(data: st.DataObject, dtype: str, content: bool) -> None:
    shape = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    value = data.draw(arrays.arrays(np.dtype(dtype), shape))
    message = wire.from_array(value, content=content)
    read = wire.to_array(TensorProto.FromString(message.SerializeToString()))
    assert isinstance(read, np.ndarray)
    assert read.dtype == value.dtype and read.shape == value.shape
    # By their bits: a NaN is one. Through Python floats a signalling one may turn quiet.
    np.testing.assert_array_equal(read, value)


def test_floats_are_written_one_by_one_as_every_client_reads_them() -> None:
    value = np.arange(1001, dtype=np.float32).reshape(1, 1001)
    message = wire.from_array(value)
    assert list(message.float_val) == value.ravel().tolist()
    assert [dim.size for dim in message.tensor_shape.dim] == [1, 1001]
    assert not message.tensor_content
    assert message == TensorProto.FromString(
        tensor(DataType.DT_FLOAT, [1, 1001], float_val=value.ravel()).SerializeToString()
    )


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16", "i2", "f2"])
def test_packed_lists_are_those_that_protobuf_writes(dtype: str) -> None:
    value = np.arange(7).astype(dtype)
    message = wire.from_array(value)
    again = TensorProto()
    for field, listed in message.ListFields():
        if field.is_repeated:
            getattr(again, field.name).extend(list(listed))
    again.dtype = message.dtype
    again.tensor_shape.CopyFrom(message.tensor_shape)
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(
        deterministic=True
    )


def test_a_short_list_repeats_its_last_value() -> None:
    message = tensor(DataType.DT_INT32, [2, 3], int_val=[5, 7])
    read = wire.to_array(message)
    assert isinstance(read, np.ndarray)
    assert read.tolist() == [[5, 7, 7], [7, 7, 7]]


def test_half_and_bfloat16_are_the_bits_in_half_val() -> None:
    half = wire.to_array(tensor(DataType.DT_HALF, [2], half_val=[0x3C00, 0xC000]))
    assert isinstance(half, np.ndarray)
    assert half.dtype == np.float16 and half.tolist() == [1.0, -2.0]
    brain = wire.to_array(tensor(DataType.DT_BFLOAT16, [2], half_val=[0x3F80, 0xC000]))
    assert isinstance(brain, np.ndarray)
    assert brain.dtype == np.float32 and brain.tolist() == [1.0, -2.0]
    content = tensor(DataType.DT_BFLOAT16, [1], tensor_content=b"\x80\x3f")
    assert np.asarray(wire.to_array(content)).tolist() == [1.0]


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (DataType.DT_UINT8, np.uint8),
        (DataType.DT_QUINT8, np.uint8),
        (DataType.DT_INT8, np.int8),
        (DataType.DT_QINT32, np.int32),
        (DataType.DT_UINT16, np.uint16),
    ],
)
def test_small_integers_come_in_int_val(dtype: int, wanted: type) -> None:
    read = wire.to_array(tensor(dtype, [3], int_val=[1, 2, 127]))
    assert isinstance(read, np.ndarray)
    assert read.dtype == wanted and read.tolist() == [1, 2, 127]


def test_strings_come_as_bytes_in_both_encodings() -> None:
    listed = tensor(DataType.DT_STRING, [2], string_val=[b"\xff\xd8", b""])
    assert wire.to_array(listed) == [b"\xff\xd8", b""]
    content = tensor(DataType.DT_STRING, [2], tensor_content=b"\x02\xac\x02ab" + b"c" * 300)
    assert wire.to_array(content) == [b"ab", b"c" * 300]
    assert wire.to_array(wire.from_array([b"a", b"b"])) == [b"a", b"b"]
    assert wire.to_array(tensor(DataType.DT_STRING, [], string_val=[b"x"])) == [b"x"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (tensor(DataType.DT_FLOAT, [2], tensor_content=b"12345"), "5 bytes.* want 8"),
        (tensor(DataType.DT_FLOAT, [2]), r"0 values, its shape \[2\] wants 2"),
        (tensor(DataType.DT_FLOAT, [1], float_val=[1, 2]), "2 values"),
        (tensor(DataType.DT_COMPLEX64, [1], scomplex_val=[1]), "1 values"),
        (tensor(DataType.DT_UINT8, [1], int_val=[256]), r"int_val\[0\] is 256"),
        (tensor(DataType.DT_INT8, [2], int_val=[0, -129]), r"int_val\[1\] is -129"),
        (tensor(DataType.DT_HALF, [1], half_val=[-1]), r"half_val\[0\] is -1"),
        (tensor(DataType.DT_FLOAT, [-1], float_val=[1]), r"shape is \[-1\]"),
        (tensor(DataType.DT_FLOAT, [1] * 40, float_val=[1]), "at most 32 dimensions"),
        (tensor(DataType.DT_INVALID, [1]), "dtype is DT_INVALID"),
        (tensor(DataType.DT_VARIANT, [1]), "dtype is DT_VARIANT"),
        (tensor(99, [1]), "dtype is DataType 99"),
        (tensor(DataType.DT_STRING, [2]), "0 strings"),
        (tensor(DataType.DT_STRING, [1], tensor_content=b"\x05ab"), "its strings want 6"),
        (tensor(DataType.DT_STRING, [1], tensor_content=b"\xff" * 9), "within the lengths"),
        (tensor(DataType.DT_STRING, [1 << 62], tensor_content=b"\x00"), "within the lengths"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(message: TensorProto, said: str) -> None:
    with pytest.raises(RequestError, match=rf"^cannot read tensor 'x': .*{said}"):
        wire.to_array(message, name="x")


def test_unknown_rank_is_refused() -> None:
    message = TensorProto(dtype=DataType.DT_FLOAT, float_val=[1])
    message.tensor_shape.unknown_rank = True
    with pytest.raises(RequestError, match="unknown rank"):
        wire.to_array(message)


@pytest.mark.parametrize(
    "message",
    [
        tensor(DataType.DT_FLOAT, [1 << 40, 1 << 40], float_val=[1]),
        tensor(DataType.DT_STRING, [1 << 60], string_val=[b"a"]),
        tensor(DataType.DT_UINT8, [1 << 62, 4], tensor_content=b"1"),
    ],
)
def test_one_value_cannot_ask_for_all_the_memory(message: TensorProto) -> None:
    with pytest.raises(LimitError, match=r"^cannot read tensor"):
        wire.to_array(message)


def test_a_dtype_that_the_message_lacks_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot put datetime64"):
        wire.from_array(np.zeros(1, "M8[s]"))


def test_description_names_dtype_and_shape() -> None:
    assert wire.describe(wire.from_array(np.zeros((1, 2), np.uint8))) == "uint8 [1, 2]"
    assert wire.describe(tensor(DataType.DT_STRING, [1])) == "DT_STRING [1]"
    assert wire.describe(tensor(DataType.DT_QUINT8, [])) == "DT_QUINT8 []"
