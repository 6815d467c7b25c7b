"""A real gRPC server that answers Predict as a test wants."""

from __future__ import annotations

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


def failing(code: grpc.StatusCode, details: str, *trailers: tuple[str, str]) -> Answer:
    def answer(request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
        context.set_trailing_metadata(trailers)
        context.abort(code, details)
        raise AssertionError

    return answer
