"""A real gRPC server that answers Predict as a test wants."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from edged import wire

Answer = Callable[[wire.PredictRequest, grpc.ServicerContext], wire.PredictResponse]


class Server:
    """One Predict method, answered by whatever `answer` is at the moment.

    Args:
        credentials: of a TLS server; in the clear without.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.answer: Answer = lambda request, context: wire.PredictResponse()
        self.calls = 0
        self.metadata: dict[str, str] = {}
        # The clients, too, take more than gRPC's own 4 MiB.
        self._server = grpc.server(
            ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)]
        )
        service, _, method = wire.PREDICT.partition("/")
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict,
            wire.PredictRequest.FromString,
            lambda response: response.SerializeToString(),
        )
        handlers = grpc.method_handlers_generic_handler(service, {method: handler})
        self._server.add_generic_rpc_handlers((handlers,))
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def _predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        return self.answer(request, context)

    def stop(self) -> None:
        self._server.stop(None).wait()


class Distance:
    """Between clients and the server at *port*: nothing arrives before *seconds* have passed.

    Attributes:
        address: where clients connect to instead.
        connections: how many have.
    """

    def __init__(self, port: int, seconds: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._port = port
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(8)
        self._threads.submit(self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                self._threads.submit(self._connect, near)

    def _connect(self, near: socket.socket) -> None:
        time.sleep(self._seconds)
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            back = self._threads.submit(_pass_on, far, near)
            _pass_on(near, far)
            back.result()

    def close(self) -> None:
        """After the clients have."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads.shutdown()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def failing(code: grpc.StatusCode, details: str, *trailers: tuple[str, str]) -> Answer:
    def answer(request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
        context.set_trailing_metadata(trailers)
        context.abort(code, details)
        raise AssertionError

    return answer
