"""The front: what clients talk to. It reads the envelope of a call and nothing inside it."""

from edged.serving._caller import is_local
from edged.serving._grpc import METHODS, GrpcFront, ServingLimits

__all__ = ["METHODS", "GrpcFront", "ServingLimits", "is_local"]
