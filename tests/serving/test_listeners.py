"""Who may call where: TLS, names of clients, tokens, and what changes while calls run."""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from patience import PATIENCE

from edged import wire
from edged.calls import Call
from edged.errors import ConfigError
from edged.serving import (
    Admission,
    GrpcFront,
    InFlight,
    Listener,
    ServingLimits,
    Tls,
    TlsFiles,
    Tokens,
)
from edged.tokens import TokenFile

PREDICT = f"/{wire.PREDICT}"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def who(call: Call) -> bytes:
    return call.client.encode()


@asynccontextmanager
async def serving(
    *listeners: Listener, answer: Callable = who, in_flight: InFlight | None = None
) -> AsyncIterator[tuple[GrpcFront, list[int]]]:
    front = GrpcFront(answer, listeners, ServingLimits(call_seconds=PATIENCE), in_flight=in_flight)
    ports = await front.start()
    try:
        yield front, ports
    finally:
        await front.stop(5)


async def asked(channel: grpc.aio.Channel, *metadata: tuple[str, str], payload: bytes = b"") -> str:
    """The client's name in edged's eyes, or the status that it was refused with."""
    try:
        call = channel.unary_unary(PREDICT)
        return (await call(payload, metadata=metadata, timeout=PATIENCE)).decode()
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"


@dataclass
class Files:
    """A CA, and the files that a listener reads."""

    folder: Path
    ca: trustme.CA

    def write(self, certificate: trustme.LeafCert, key: trustme.LeafCert | None = None) -> None:
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        (self.folder / "server.crt").write_bytes(chain)
        (self.folder / "server.key").write_bytes((key or certificate).private_key_pem.bytes())

    def tls(self, clients: bool = False) -> Tls:
        ca = self.folder / "clients.crt"
        if clients:
            self.ca.cert_pem.write_to_path(str(ca))
        folder = self.folder
        return Tls(
            TlsFiles(
                "listeners.lan",
                folder / "server.crt",
                folder / "server.key",
                ca if clients else None,
            )
        )

    def credentials(self, leaf: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
        root = self.ca.cert_pem.bytes()
        if leaf is None:
            return grpc.ssl_channel_credentials(root)
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        return grpc.ssl_channel_credentials(root, leaf.private_key_pem.bytes(), chain)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    ca = trustme.CA()
    files = Files(tmp_path, ca)
    files.write(ca.issue_cert("localhost"))
    return files


@pytest.fixture
def token_file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens")


async def test_each_listener_has_its_own_rule(files: Files, token_file: TokenFile) -> None:
    secret = token_file.add("line-3")
    with_token = Admission("lan", Tokens(token_file).owner, needs_token=True)
    listeners = (
        Listener("serving.socket", f"unix:{files.folder}/s", Admission("socket"), 0o600),
        Listener("listeners.lan.listen", "localhost:0", with_token, tls=files.tls()),
    )
    async with serving(*listeners) as (_, ports), AsyncExitStack() as channels:
        assert (files.folder / "s").stat().st_mode & 0o777 == 0o600
        here = await channels.enter_async_context(
            grpc.aio.insecure_channel(f"unix:{files.folder}/s")
        )
        lan = await channels.enter_async_context(
            grpc.aio.secure_channel(f"localhost:{ports[1]}", files.credentials())
        )
        assert await asked(here) == "unix"
        # What the original clients send, in their spellings.
        route = ("x-ms-aml-grpc-service-route", "/api/v1/service/edge")
        for spelling in (f"Bearer {secret}", f"bearer {secret}", f"BEARER  {secret}", secret):
            assert await asked(lan, ("authorization", spelling), route) == "line-3"
        assert (await asked(lan)).startswith("UNAUTHENTICATED: cannot let the client in: it brings")
        for wrong in ("Bearer x", "Bearer ", f"Basic {secret}", f"Bearer {secret}x", "x" * 4000):
            refused = await asked(lan, ("authorization", wrong))
            assert refused.startswith("UNAUTHENTICATED: cannot let the client in"), wrong
            assert secret not in refused
        # Health is for load balancers, which have no token; what services there are is not.
        health = health_pb2_grpc.HealthStub(lan)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status
        described = reflection_pb2_grpc.ServerReflectionStub(lan)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await described.ServerReflectionInfo(iter([question]), timeout=PATIENCE).read()
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = await described.ServerReflectionInfo(
            iter([question]), metadata=(("authorization", f"Bearer {secret}"),), timeout=PATIENCE
        ).read()
        assert answer.list_services_response.service


async def test_connections_are_told_of_to_who_may_call(
    tmp_path: Path, token_file: TokenFile
) -> None:
    secret = token_file.add("line-3")
    admission = Admission("socket", Tokens(token_file).owner, needs_token=True)
    listener = Listener("x", f"unix:{tmp_path}/s", admission)
    front = GrpcFront(who, [listener], channelz=True)
    await front.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        connections = channelz_pb2_grpc.ChannelzStub(channel)
        question = channelz_pb2.GetServersRequest()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await connections.GetServers(question, timeout=PATIENCE)
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
        token = (("authorization", f"Bearer {secret}"),)
        assert (await connections.GetServers(question, metadata=token, timeout=PATIENCE)).server
    await front.stop(5)


async def test_tokens_that_are_added_and_revoked_are_so_for_the_next_call(
    files: Files, token_file: TokenFile
) -> None:
    old = token_file.add("old")
    admission = Admission("lan", Tokens(token_file).owner, needs_token=True)
    async with (
        serving(Listener("x", f"unix:{files.folder}/s", admission)),
        grpc.aio.insecure_channel(f"unix:{files.folder}/s") as channel,
    ):
        assert await asked(channel, ("authorization", f"Bearer {old}")) == "old"
        new = token_file.add("new")
        assert await asked(channel, ("authorization", f"Bearer {new}")) == "new"
        token_file.revoke("old")
        refused = await asked(channel, ("authorization", f"Bearer {old}"))
        assert refused.startswith("UNAUTHENTICATED")
        assert await asked(channel, ("authorization", f"Bearer {new}")) == "new"


async def test_wrong_tokens_at_speed_are_few_lines_in_the_log(
    files: Files,
    token_file: TokenFile,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However long they take here, they come within one stretch of counting.
    monkeypatch.setattr("edged.serving._listener._COUNTED_FOR", 3600.0)
    token_file.add("good")
    admission = Admission("listeners.lan", Tokens(token_file).owner, needs_token=True)
    async with (
        serving(Listener("x", f"unix:{files.folder}/s", admission)),
        grpc.aio.insecure_channel(f"unix:{files.folder}/s") as channel,
    ):
        with caplog.at_level(logging.INFO):
            for attempt in range(200):
                await asked(channel, ("authorization", f"Bearer guess-{attempt}"))
    assert len(caplog.records) == 1
    assert "guess" not in caplog.text


async def test_a_call_that_may_not_be_made_is_refused_before_its_message_is_read(
    files: Files, token_file: TokenFile
) -> None:
    admission = Admission("lan", Tokens(token_file).owner, needs_token=True)
    async with (
        serving(Listener("x", f"unix:{files.folder}/s", admission)),
        grpc.aio.insecure_channel(f"unix:{files.folder}/s") as channel,
    ):
        call = channel.stream_unary(PREDICT)(timeout=PATIENCE)
        # Nothing is sent; the answer comes all the same.
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_only_certificates_with_an_allowed_name_get_in(files: Files) -> None:
    camera = files.ca.issue_cert("camera-1.line")
    visitor = files.ca.issue_cert("visitor.line")
    unnamed = files.ca.issue_cert(common_name="camera-2")
    stranger = trustme.CA().issue_cert("camera-1.line")
    admission = Admission("lan", clients=("camera-1.line", "camera-2"))
    listener = Listener("x", "localhost:0", admission, tls=files.tls(clients=True))
    async with serving(listener) as (_, (port,)):

        async def by(leaf: trustme.LeafCert | None) -> str:
            credentials = files.credentials(leaf)
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                return await asked(channel)

        assert await by(camera) == "camera-1.line"
        assert await by(unnamed) == "camera-2"
        assert (await by(visitor)).startswith(
            "PERMISSION_DENIED: cannot let the client in: the names in its certificate, visitor.li"
        )
        assert (await by(None)).startswith("UNAVAILABLE")
        assert (await by(stranger)).startswith("UNAVAILABLE")
        admission.clients = frozenset()
        assert await by(visitor) == "visitor.line"


async def test_certificates_change_and_no_call_is_dropped(files: Files) -> None:
    tls = files.tls()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(call: Call) -> bytes:
        entered.set()
        await leave.wait()
        return b"answered"

    new_ca = trustme.CA()
    async with (
        serving(Listener("x", "localhost:0", Admission("x"), tls=tls), answer=slow) as (_, ports),
        AsyncExitStack() as channels,
    ):
        target = f"localhost:{ports[0]}"
        old_channel = await channels.enter_async_context(
            grpc.aio.secure_channel(target, files.credentials())
        )
        running = asyncio.create_task(asked(old_channel))
        await entered.wait()
        files.write(new_ca.issue_cert("localhost"), key=files.ca.issue_cert("localhost"))
        with pytest.raises(ConfigError, match="does not belong to the certificate"):
            tls.load()
        # What cannot be used changes nothing.
        context = ssl.create_default_context(cadata=files.ca.cert_pem.bytes().decode())
        _, writer = await asyncio.open_connection("localhost", ports[0], ssl=context)
        writer.close()
        files.write(new_ca.issue_cert("localhost"))
        tls.load()
        new_channel = await channels.enter_async_context(
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(new_ca.cert_pem.bytes()))
        )
        by_new = asyncio.create_task(asked(new_channel))
        leave.set()
        assert await running == "answered"
        assert await by_new == "answered"
        # The connection that there was is good for more calls.
        assert await asked(old_channel) == "answered"


async def test_pythons_own_tls_follows_as_well_with_another_ca_of_clients(files: Files) -> None:
    tls = files.tls(clients=True)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def reached(leaf: trustme.LeafCert, ca: trustme.CA) -> bool:
        context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
        leaf.configure_cert(context)
        try:
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
            said = await reader.read()
            writer.close()
            return said == b"hello"
        except (ssl.SSLError, OSError):
            return False

    server = await asyncio.start_server(greet, "localhost", 0, ssl=tls.context())
    port = server.sockets[0].getsockname()[1]
    async with server:
        old, client = files.ca, files.ca.issue_cert("client")
        assert await reached(client, old)
        files.ca = trustme.CA()
        files.write(files.ca.issue_cert("localhost"))
        files.ca.cert_pem.write_to_path(str(files.folder / "clients.crt"))
        tls.load()
        assert await reached(files.ca.issue_cert("client"), files.ca)
        assert not await reached(client, files.ca)


LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f.folder / "server.crt").unlink(), "listeners.lan.certificate, .*No such file"),
        (lambda f: (f.folder / "server.key").write_text(""), r"listeners\.lan\.key, .*no private"),
        (
            lambda f: (f.folder / "server.crt").write_text("-----BEGIN CERTIFICATE-----\nx\n"),
            r"listeners\.lan\.certificate, ",
        ),
        (
            lambda f: f.write(f.ca.issue_cert("localhost"), f.ca.issue_cert("localhost")),
            r"listeners\.lan\.key, .*server\.key: it does not belong to the certificate",
        ),
        (
            lambda f: f.write(f.ca.issue_cert("localhost", not_after=LONG_AGO)),
            r"listeners\.lan\.certificate, .*certificate has expired; `openssl x509",
        ),
        (
            lambda f: (
                f.ca.issue_cert("x").cert_chain_pems[0].write_to_path(str(f.folder / "clients.crt"))
            ),
            r"listeners\.lan\.client_ca, .*none of its certificates is a CA's",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    files: Files, spoil: Callable[[Files], object], says: str
) -> None:
    tls = files.tls(clients=True)
    until = tls.until
    spoil(files)
    with pytest.raises(ConfigError, match=says):
        tls.load()
    assert tls.until == until


async def test_what_was_accepted_is_answered_and_the_rest_is_told_to_come_again(
    tmp_path: Path,
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(call: Call) -> bytes:
        entered.set()
        await leave.wait()
        return b"answered"

    listener = Listener("x", f"unix:{tmp_path}/s", Admission("x"))
    async with (
        serving(listener, answer=slow) as (front, _),
        grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel,
    ):
        described = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await described.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await described.read()).list_services_response.service
        accepted = asyncio.create_task(asked(channel))
        await entered.wait()
        stopping = asyncio.create_task(front.stop(2 * PATIENCE))
        await asyncio.sleep(0)
        call = channel.unary_unary(PREDICT)(b"", timeout=PATIENCE)
        assert await call.code() is UNAVAILABLE
        assert ("grpc-retry-pushback-ms", "1000") in tuple(await call.trailing_metadata())
        leave.set()
        assert await accepted == "answered"
        # Nor does a stream that nobody ends hold it up.
        await asyncio.wait_for(stopping, PATIENCE)


async def test_calls_that_do_not_end_in_time_are_told_so(tmp_path: Path) -> None:
    entered = asyncio.Event()

    async def never(call: Call) -> bytes:
        entered.set()
        await asyncio.get_running_loop().create_future()
        return b""

    listener = Listener("x", f"unix:{tmp_path}/s", Admission("x"))
    async with (
        serving(listener, answer=never) as (front, _),
        grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel,
    ):
        accepted = asyncio.create_task(asked(channel))
        await entered.wait()
        await front.stop(0.05)
        assert (await accepted).startswith("UNAVAILABLE: cannot answer: edged is stopping")


async def test_calls_beyond_the_bound_are_refused_and_health_is_not(tmp_path: Path) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(call: Call) -> bytes:
        entered.set()
        await leave.wait()
        return b"answered"

    listener = Listener("x", f"unix:{tmp_path}/s", Admission("x"))
    async with (
        serving(listener, answer=slow, in_flight=InFlight(1)),
        grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel,
    ):
        first = asyncio.create_task(asked(channel))
        await entered.wait()
        assert "serving.max_concurrent_calls is 1" in await asked(channel)
        assert await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        leave.set()
        assert await first == "answered"


async def test_a_call_whose_message_does_not_come_does_not_hold_up_the_end(tmp_path: Path) -> None:
    in_flight = InFlight(10)
    front = GrpcFront(
        who, [Listener("x", f"unix:{tmp_path}/s", Admission("x"))], in_flight=in_flight
    )
    await front.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        silent = channel.stream_unary(PREDICT)()
        # The headers go out, and then nothing does.
        await silent.wait_for_connection()
        async with asyncio.timeout(PATIENCE):
            while not in_flight.calls:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(front.stop(2 * PATIENCE), PATIENCE)
        assert await silent.code() is grpc.StatusCode.UNAVAILABLE
