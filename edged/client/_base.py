"""What the two clients have in common: everything but the waiting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from edged import wire
from edged.client._connection import Connection
from edged.client._requests import Inputs
from edged.client._retry import Attempts
from edged.errors import InputError
from edged.wire import inference

__all__ = ["ARRAY_SECONDS", "CONFIG", "FILE_SECONDS", "IDLE", "METHOD", "BaseClient"]

METHOD: Final = f"/{wire.PREDICT}"
CONFIG: Final = f"/{inference.MODEL_CONFIG}"

# The defaults of the original client, azureml.accel.PredictionClient.
FILE_SECONDS: Final = 10.0
ARRAY_SECONDS: Final = 30.0
IDLE: Final = timedelta(minutes=2)


class BaseClient:
    """Where to call, and how requests are made. It does no I/O.

    The arguments up to *channel_shutdown_timeout* are those of the original client, by name, order
    and default.

    Args:
        address: the host; also ``HOST:PORT``, or a target of gRPC such as ``unix:/PATH``.
        port: where *address* has none: 80, or 443 with TLS. edged itself listens on 50051.
        use_ssl: whether to use TLS.
        access_token: sent as ``authorization: Bearer …`` when it is not empty.
        service_name: sent as ``x-ms-aml-grpc-service-route: /api/v1/service/…`` likewise.
        channel_shutdown_timeout: a connection that was idle for so long is closed; the next call
            opens another.
        ca_file: certificates (PEM) that the server's is checked against instead of the public
            ones. Implies TLS.
        certificate_file: this client's own certificate (PEM), with those between it and the CA,
            where the server wants one. Implies TLS.
        key_file: the private key of it (PEM).
        timeout: seconds for a call of `score_images` and `score_arrays`, all attempts together.
        attempts: how often a call is made where waiting helps.
        model: the name of the model to ask; empty for the loaded one.

    Raises:
        InputError: an argument that cannot be used.
        NotFoundError: there is no such file of a CA, certificate or key.
    """

    def __init__(
        self,
        address: str,
        port: int | None = None,
        use_ssl: bool = False,
        access_token: str = "",
        service_name: str = "",
        channel_shutdown_timeout: timedelta = IDLE,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        certificate_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
        model: str = "",
    ) -> None:
        if attempts < 1:
            raise InputError(f"cannot call {attempts} times: wanted at least one attempt")
        self._connection = Connection.of(
            address,
            port,
            use_ssl,
            access_token,
            service_name,
            channel_shutdown_timeout,
            ca_file,
            certificate_file,
            key_file,
        )
        self._timeout = timeout
        self._most = attempts
        self._model = model
        self._open()

    def _open(self) -> None:
        """Open the channel, where that can be done at once."""

    def _attempts(self, timeout: float) -> Attempts:
        return Attempts(self._connection.target, timeout, self._most)

    def _request(self, inputs: Inputs, wanted: str | Sequence[str] | None) -> bytes:
        """The request's bytes.

        The original never named the outputs that it wanted, and failed with a KeyError when the
        answer lacked one. A server that is asked by name says which names it has.
        """
        request = wire.PredictRequest(inputs=inputs)
        if wanted:
            request.output_filter.extend([wanted] if isinstance(wanted, str) else wanted)
        if self._model:
            request.model_spec.name = self._model
        return request.SerializeToString()

    def _config_request(self) -> bytes:
        return inference.ModelConfigRequest(name=self._model).SerializeToString()
