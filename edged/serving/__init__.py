"""The front: what clients talk to. It reads the envelope of a call and nothing inside it."""

from edged.serving._grpc import GrpcFront, ServingLimits

__all__ = ["GrpcFront", "ServingLimits"]
