"""The front: what clients talk to. It reads the envelope of a call and nothing inside it."""

from edged.serving._caller import is_local
from edged.serving._grpc import GrpcFront, ServingLimits
from edged.serving._models import Models
from edged.serving._reception import METHODS, Reception

__all__ = ["METHODS", "GrpcFront", "Models", "Reception", "ServingLimits", "is_local"]
