"""The front: what clients talk to. It reads the envelope of a call and nothing inside it."""

from edged.serving._caller import is_local
from edged.serving._grpc import GrpcFront, ServingLimits
from edged.serving._listener import Admission, InFlight, Listener, Tokens
from edged.serving._models import Models
from edged.serving._reception import METHODS, Reception
from edged.serving._rest import RestFront
from edged.serving._tls import Tls, TlsFiles

__all__ = [
    "METHODS",
    "Admission",
    "GrpcFront",
    "InFlight",
    "Listener",
    "Models",
    "Reception",
    "RestFront",
    "ServingLimits",
    "Tls",
    "TlsFiles",
    "Tokens",
    "is_local",
]
