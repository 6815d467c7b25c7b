"""Start: lock down, load the model, say so, serve."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

from edged import sandbox
from edged.container._arena import Memory
from edged.container._files import Files
from edged.container._messages import START, DeviceLost, Failure, Ready, encode
from edged.container.worker._device import Device
from edged.container.worker._model import Model
from edged.container.worker._order import Order
from edged.container.worker._recall import Recall
from edged.container.worker._regions import Regions
from edged.container.worker._server import Server
from edged.container.worker._service import ModelService
from edged.container.worker._shortage import is_short_of_memory
from edged.container.worker._stages import Stages
from edged.errors import DeviceLostError, EdgedError, ModelError

__all__ = ["main"]

_log = logging.getLogger(__name__)

_TOO_LARGE: Final = (
    "cannot load the model: it needs more memory than the limit of container.memory_bytes"
)


def main(argv: Sequence[str], began: float) -> int:
    """Hold the model of some files until the channel ends.

    Args:
        argv: the model's files (`Files.parse`), bound on memory in bytes, bound on seconds for one
            call, descriptors of the channel and of the memories for requests and responses.
        began: when the process began to import, by time.monotonic().

    Returns:
        the exit status.
    """
    imported = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    files, memory_bytes, call_seconds = Files.parse(argv[0]), int(argv[1]), float(argv[2])
    sock = socket.socket(fileno=int(argv[3]))
    requests, responses = Memory(int(argv[4])), Memory(int(argv[5]))
    try:
        confinement = sandbox.Confinement(files.read_only, memory_bytes=memory_bytes)
        in_force = sandbox.lock_down(confinement)
        locked = time.monotonic()
        model = _load(files)
        loaded = time.monotonic()
        device = Device(model.image, lambda error: _tell_lost(sock, error))
        stages, recall = Stages(), Recall()
        regions, order = Regions(), Order(matters=model.manifest.state is not None)
        service = ModelService(model, device, stages, recall, regions, order)
        service.warm_up()
        server = Server(
            sock, requests, responses, service, device, stages, recall, call_seconds, regions, order
        )
        server.start()
    except MemoryError:
        sock.send(encode(Failure(START, ModelError.__name__, _TOO_LARGE)))
        return os.EX_UNAVAILABLE
    except EdgedError as error:
        sock.send(encode(Failure(START, type(error).__name__, str(error)[:4000])))
        return error.exit_status
    times = {
        "imports": (imported - began) * 1e3,
        "lock down": (locked - imported) * 1e3,
        "model": (loaded - locked) * 1e3,
        "warm-up": (time.monotonic() - loaded) * 1e3,
    }
    sock.send(encode(Ready(times, in_force)))
    server.wait()
    # Threads may hang in the device: nothing is left to be saved by waiting for them.
    logging.shutdown()
    os._exit(os.EX_OK)


def _tell_lost(sock: socket.socket, error: DeviceLostError) -> None:
    sock.send(encode(DeviceLost(str(error)[:4000])))


def _load(files: Files) -> Model:
    try:
        return Model.load(files)
    except EdgedError:
        raise
    except Exception as error:  # ONNX Runtime has a class of its own for each of its reasons
        if is_short_of_memory(error):
            raise MemoryError from error
        _log.exception("cannot load the model")
        raise ModelError(f"cannot load the model: {str(error)[:500]}") from error
