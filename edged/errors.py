"""Every error that edged raises on purpose, in one tree.

::

    EdgedError                  INTERNAL             500   70
    ├── InputError              INVALID_ARGUMENT     400   65
    │   ├── RequestError        INVALID_ARGUMENT     400   65   a call: its tensors, names, images
    │   ├── BundleError         INVALID_ARGUMENT     400   65   a bundle: archive, digest, manifest
    │   ├── ModelError          INVALID_ARGUMENT     400   65   a model that cannot be compiled
    │   └── ImageError          INVALID_ARGUMENT     400   65   a program image that cannot be read
    ├── NotFoundError           NOT_FOUND            404   66   no such model, tensor or file
    │   └── IncompleteError     NOT_FOUND            404   66   a model without its data files
    ├── LimitError              RESOURCE_EXHAUSTED   413   69   a size, count or memory bound
    │   ├── OverloadError       RESOURCE_EXHAUSTED   429   69   too many calls at this moment
    │   └── ShortageError       RESOURCE_EXHAUSTED   507   69   no disk or memory is left
    ├── UnsupportedError        UNIMPLEMENTED        501   69   not done here, but another way
    ├── UnauthenticatedError    UNAUTHENTICATED      401   77   a call without a valid token
    ├── ForbiddenError          PERMISSION_DENIED    403   77   a client that is known, but may not
    ├── ConfigError             FAILED_PRECONDITION  500   78   the configuration file
    ├── UnavailableError        UNAVAILABLE          503   75   waiting helps: try again
    │   ├── DeviceLostError     UNAVAILABLE          503   75   the device went away
    │   ├── NotRunError         UNAVAILABLE          503   75   the device is being reset
    │   └── ContainerError      UNAVAILABLE          503   75   the model's container went away
    │       └── KilledError     UNAVAILABLE          503   75   … and not by the model's doing
    ├── DeadlineError           DEADLINE_EXCEEDED    504   75   not answered in time
    ├── CalledOffError          CANCELLED            409   75   someone called it off
    ├── DeviceError             INTERNAL             500   74   the device answered with a fault
    │   └── IncompatibleError   FAILED_PRECONDITION  500   74   device and image do not fit
    ├── SandboxError            FAILED_PRECONDITION  500   71   the host cannot confine a process
    └── StoreError              INTERNAL             500   74   state on disk

Columns: gRPC status, HTTP status, exit status (after ``sysexits.h``).

Some errors are faults of the machine, or of the moment (:attr:`EdgedError.of_machine`): they say
nothing of the model at which they came up. It is kept, and tried again.

Messages start with "cannot …" and go on to say what was found, what was wanted and, where there is
one, the next step. Errors of libraries are translated where the library is called, with ``from``.
"""

from __future__ import annotations

import errno
import importlib.util
import sys
from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "BundleError",
    "CalledOffError",
    "ConfigError",
    "ContainerError",
    "DeadlineError",
    "DeviceError",
    "DeviceLostError",
    "EdgedError",
    "ForbiddenError",
    "ImageError",
    "IncompatibleError",
    "IncompleteError",
    "InputError",
    "KilledError",
    "LimitError",
    "ModelError",
    "NotFoundError",
    "NotRunError",
    "OverloadError",
    "RequestError",
    "SandboxError",
    "ShortageError",
    "StoreError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "by_grpc_status",
    "by_name",
    "is_of_machine",
    "of_os",
    "stumbled",
]


class EdgedError(Exception):
    """The root of the tree.

    Attributes:
        grpc_status: the name of the gRPC status code that answers a call with this error.
        http_status: the HTTP status that does.
        exit_status: the exit status of a command that ends with it.
        of_machine: whether the machine or the moment is at fault, and not what was given.
    """

    grpc_status: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 70
    of_machine: ClassVar[bool] = False


class InputError(EdgedError):
    """What was given can never be accepted as it is: a retry does not help."""

    grpc_status = "INVALID_ARGUMENT"
    http_status = 400
    exit_status = 65


class RequestError(InputError):
    """A call names, shapes or encodes its tensors or images wrongly."""


class BundleError(InputError):
    """A bundle cannot be read: its archive, digests, sizes, schema or signature."""


class ModelError(InputError):
    """A model cannot be compiled for the NPU."""


class ImageError(InputError):
    """A program image is malformed."""


class NotFoundError(EdgedError):
    """Nothing has that name; the message lists the names there are."""

    grpc_status = "NOT_FOUND"
    http_status = 404
    exit_status = 66


class IncompleteError(NotFoundError):
    """A model keeps data in other files, and not all of them are there.

    Attributes:
        files: all that it names, relative to its folder; they are inside of it.
    """

    def __init__(self, message: str, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


class LimitError(EdgedError):
    """A bound on size, number or memory is exceeded; the message names it and its value."""

    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 413
    exit_status = 69


class OverloadError(LimitError):
    """More calls than may wait: waiting helps, and a smaller request may."""

    http_status = 429


class ShortageError(LimitError):
    """The machine has no more disk space or memory; the message says how to get some."""

    http_status = 507
    of_machine = True


class UnsupportedError(EdgedError):
    """A protocol has a call for it, edged has none; the message says what to do instead."""

    grpc_status = "UNIMPLEMENTED"
    http_status = 501
    exit_status = 69


class UnauthenticatedError(EdgedError):
    """A call brings no token, or none that is valid. The message never holds what it brings."""

    grpc_status = "UNAUTHENTICATED"
    http_status = 401
    exit_status = 77


class ForbiddenError(EdgedError):
    """The client is known, and is not among those that may."""

    grpc_status = "PERMISSION_DENIED"
    http_status = 403
    exit_status = 77


class ConfigError(EdgedError):
    """The configuration cannot be used. systemd does not restart on this exit status."""

    of_machine = True

    grpc_status = "FAILED_PRECONDITION"
    http_status = 500
    exit_status = 78


class UnavailableError(EdgedError):
    """Not now, but later without anyone's help: clients should retry."""

    of_machine = True

    grpc_status = "UNAVAILABLE"
    http_status = 503
    exit_status = 75


class DeviceLostError(UnavailableError):
    """The connection to the device is gone."""


class NotRunError(UnavailableError):
    """The device is being reset, and has not done the run: it can be done again at no risk."""


class ContainerError(UnavailableError):
    """The container that held the model is gone; a new one is on its way."""

    of_machine = False


class KilledError(ContainerError):
    """Somebody ended the container from outside, or the machine could not start or keep it."""

    of_machine = True


class DeadlineError(EdgedError):
    """A bound on time passed first."""

    grpc_status = "DEADLINE_EXCEEDED"
    http_status = 504
    exit_status = 75


class CalledOffError(EdgedError):
    """Someone called it off; nothing changed, and it can be begun again."""

    grpc_status = "CANCELLED"
    http_status = 409
    exit_status = 75


class DeviceError(EdgedError):
    """The device answered with an error status or a fault code."""

    grpc_status = "INTERNAL"
    http_status = 500
    exit_status = 74


class IncompatibleError(DeviceError):
    """The ABI or the array of the device and of the image do not fit."""

    grpc_status = "FAILED_PRECONDITION"
    of_machine = True


class SandboxError(EdgedError):
    """This host offers no way to confine the process that parses untrusted input."""

    grpc_status = "FAILED_PRECONDITION"
    http_status = 500
    exit_status = 71
    of_machine = True


class StoreError(EdgedError):
    """State on disk cannot be read or written. Nothing is reset: what is unreadable is kept."""

    exit_status = 74
    of_machine = True


_BY_STATUS: dict[str, type[EdgedError]] = {
    "INVALID_ARGUMENT": RequestError,
    "NOT_FOUND": NotFoundError,
    "RESOURCE_EXHAUSTED": LimitError,
    "FAILED_PRECONDITION": IncompatibleError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": ForbiddenError,
    "UNIMPLEMENTED": UnsupportedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
}


def by_grpc_status(status: str) -> type[EdgedError]:
    """The class that stands for *status* when an error crosses a process boundary by its code."""
    return _BY_STATUS.get(status, EdgedError)


def how_to_install(*packages: str) -> str:
    """The command that installs *packages* for the interpreter that runs this.

    The Debian package has an interpreter of its own, without pip: there another one's installs.
    """
    pip = f"{sys.executable} -m pip"
    if importlib.util.find_spec("pip") is None:
        pip = f"python3 -m pip --python {sys.executable}"
    return f"`{pip} install {' '.join(packages)}`"


def stumbled(what: str, error: Exception) -> str:
    """What to say, in place of a traceback, of an *error* that is no one's but edged's own."""
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return (
        f"cannot {what}: edged itself failed over it ({said}); this is a fault of edged, please"
        " report it with the model"
    )


def by_name(name: str) -> type[EdgedError]:
    """The class of that name, when an error crosses a process boundary by it."""
    found = globals().get(name) if name in __all__ else None
    return found if isinstance(found, type) and issubclass(found, EdgedError) else EdgedError


def of_os(error: OSError) -> type[EdgedError]:
    """The class that stands for an error of the operating system that is about our own files."""
    return ShortageError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError


def is_of_machine(error: BaseException) -> bool:
    """Whether an error is a fault of the machine or of the moment, and not of what was given.

    The operating system's own are: what files say wrongly is translated where they are read.
    """
    if isinstance(error, EdgedError):
        return error.of_machine
    return isinstance(error, OSError | MemoryError)
