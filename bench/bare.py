"""The work of a container without edged: in-process, and as a bare grpc.aio server.

    python bench/bare.py SOCKET int8|float|none MODEL COMPILED

The executor is the emulator's own, on the same program image, or ONNX Runtime on the float model;
each on one thread. With none the answer is always the same, and what is left is the server.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from edged import wire
from edged._compiledfiles import host_file
from edged._onnxruntime import InferenceSession, SessionOptions
from edged._pipeline import Pipeline
from edged.emulator import in_process
from edged.host import keep_large_buffers
from edged.npu import parse_image
from edged.preprocess import Preprocess, image_to_array

SIDE = 224
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


class Bare(Protocol):
    """The model's only output for an input of [1, 224, 224, 3]."""

    def tensor(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


class Int8:
    """Host's part, the emulator's executor, host's part: what edged does for a call."""

    def __init__(self, compiled: Path) -> None:
        image = parse_image((compiled / "program.img").read_bytes())
        files = [compiled / host_file(number) for number in range(len(image.entries) + 1)]
        self._pipeline = Pipeline(image, [file.read_bytes() for file in files])
        self._device = in_process(image)

    def tensor(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (name,) = self._pipeline.inputs
        return np.asarray(next(iter(self._pipeline.run({name: x}, self._device).values())))


class Float:
    """ONNX Runtime on the model as it was before it was compiled."""

    def __init__(self, model: Path) -> None:
        self._session = session(model)
        self._input = self._session.get_inputs()[0].name

    def tensor(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(self._session.run(None, {self._input: x})[0])


class Nothing:
    """An answer of the same size, without an executor."""

    def __init__(self) -> None:
        self._answer = np.zeros((1, 1000), np.float32)

    def tensor(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self._answer


def photo(bare: Bare, data: bytes, spec: Preprocess) -> npt.NDArray[np.float32]:
    """The output for an image file, decoded as edged decodes it."""
    return bare.tensor(np.asarray(image_to_array(data, spec), np.float32))


def session(model: Path) -> InferenceSession:
    """On one thread, as everything here is: two would spin for the cores they share."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(str(model), options)


def make(kind: str, model: Path, compiled: Path) -> Bare:
    match kind:
        case "int8":
            return Int8(compiled)
        case "float":
            return Float(model)
    return Nothing()


async def serve(socket: str, bare: Bare) -> None:
    """Predict, with nothing around it: parse, run, build."""
    spec = Preprocess("input", SIDE, SIDE)

    async def predict(request: wire.PredictRequest, _context: Any) -> wire.PredictResponse:
        (given,) = request.inputs.values()
        if given.dtype == wire.DataType.DT_STRING:
            output = photo(bare, given.string_val[0], spec)
        else:
            output = bare.tensor(np.asarray(wire.to_array(given), np.float32))
        response = wire.PredictResponse()
        response.outputs["output"].CopyFrom(wire.from_array(output))
        return response

    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    service, _, method = wire.PREDICT.rpartition("/")
    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=wire.PredictRequest.FromString,
        response_serializer=wire.PredictResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    keep_large_buffers()
    address, which, source, folder = sys.argv[1:]
    asyncio.run(serve(address, make(which, Path(source), Path(folder))))
