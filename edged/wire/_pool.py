"""The descriptor pool of edged's own messages.

TensorFlow registers its messages, of the same names, in protobuf's default pool, which takes each
name once. With a pool of its own, edged lives beside TensorFlow in one process.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.internal import enum_type_wrapper

__all__ = ["POOL", "build"]

POOL: Final = descriptor_pool.DescriptorPool()
for _well_known in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_well_known.DESCRIPTOR.serialized_pb)


def build(serialized: bytes, namespace: dict[str, Any]) -> None:
    """Put the messages and enum values of one serialised FileDescriptorProto into *namespace*."""
    name = descriptor_pb2.FileDescriptorProto.FromString(serialized).name
    POOL.AddSerializedFile(serialized)
    file = POOL.FindFileByName(name)
    namespace["DESCRIPTOR"] = file
    for name, message in file.message_types_by_name.items():
        namespace[name] = message_factory.GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        namespace[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        namespace.update({value.name: value.number for value in enum.values})
