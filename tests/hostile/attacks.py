"""What hostile clients do to a gRPC server. Each attack takes a target and how often it is made."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc.aio

from edged import wire
from edged.wire import inference

PREDICT = f"/{wire.PREDICT}"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS = 0, 1, 3, 4
_END_HEADERS, _END_STREAM = 4, 1
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))

Attack = Callable[[str, int], Awaitable[str]]
"""Returns what came of it, in words."""


@contextlib.asynccontextmanager
async def raw(target: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection without gRPC."""
    path = target.removeprefix("unix:")
    reader, writer = (
        await asyncio.open_unix_connection(path)
        if path != target
        else await asyncio.open_connection(*target.rsplit(":", 1))
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: str, value: str) -> bytes:
    """A literal without indexing and without Huffman (RFC 7541, 6.2.2), up to 126 bytes each."""
    texts = (name.encode(), value.encode())
    return b"\x00" + b"".join(bytes([len(text)]) + text for text in texts)


def call_headers(stream: int, path: str = PREDICT) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "edge",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(header(name, value) for name, value in fields.items())
    return frame(_HEADERS, _END_HEADERS, stream, block)


async def say_nothing(target: str, times: int) -> str:
    """Connections that are open and silent, all at once; half of them begin an HTTP/2 preface."""
    async with contextlib.AsyncExitStack() as stack:
        opened = closed = 0
        readers = []
        for number in range(times):
            try:
                reader, writer = await stack.enter_async_context(raw(target))
            except OSError:
                continue
            if number % 2:
                writer.write(_PREFACE[: 1 + number % 20])
            readers.append(reader)
            opened += 1

        async def ended(reader: asyncio.StreamReader) -> bool:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(20):
                    while await reader.read(4096):
                        pass
                    return True
            return False

        closed = sum(await asyncio.gather(*map(ended, readers)))
    return f"{opened} opened, {closed} closed by edged within 20 s"


async def send_slowly(target: str, times: int) -> str:
    """Calls whose messages never end."""
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        calls = [channel.stream_unary(PREDICT)() for _ in range(times)]
        codes = Counter([(await call.code()).name for call in calls])
    return _counted(codes)


async def read_nothing(target: str, times: int) -> str:
    """Calls whose answers there is no window for (RFC 9113, 5.2)."""
    no_window = frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    ended: set[int] = set()
    async with raw(target) as (reader, writer):
        writer.write(_PREFACE + no_window)
        for stream in range(1, 2 * times, 2):
            # An empty message is all that this asks for.
            writer.write(call_headers(stream, f"/{inference.SERVER_METADATA}"))
            writer.write(frame(_DATA, _END_STREAM, stream, b"\0\0\0\0\0"))
        await writer.drain()
        # Until nothing more comes for a second.
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError):
            while len(ended) < times:
                async with asyncio.timeout(1 if ended else 20):
                    head = await reader.readexactly(9)
                    size = int.from_bytes(head[:3])
                    kind, flags, stream = struct.unpack(">BBI", head[3:])
                    await reader.readexactly(size)
                    if kind == _RST or (kind == _HEADERS and flags & _END_STREAM):
                        ended.add(stream)
    return f"{times} calls, {len(ended)} refused"


async def call_off(target: str, times: int) -> str:
    """Calls that are cancelled as soon as they are made."""
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        for begin in range(0, times, 100):
            calls = [channel.unary_unary(PREDICT)(b"x" * 1000) for _ in range(begin, begin + 100)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    return f"{times} cancelled"


async def send_garbage(target: str, times: int) -> str:
    """Bytes that are no HTTP/2, frames that are none, calls that are no protobuf; seeded."""
    chance = random.Random(20261123)
    for number in range(times):
        async with raw(target) as (reader, writer):
            with contextlib.suppress(OSError, TimeoutError):
                if number % 3:
                    writer.write(_PREFACE + frame(_SETTINGS, 0, 0, b""))
                if number % 3 == 2:
                    writer.write(call_headers(1))
                for _ in range(4):
                    kind, flags = chance.randrange(12), chance.randrange(256)
                    junk = chance.randbytes(chance.randrange(200))
                    writer.write(frame(kind, flags, chance.randrange(4), junk))
                writer.write_eof()
                async with asyncio.timeout(5):
                    await reader.read(4096)
    codes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        for _ in range(times):
            junk = chance.randbytes(chance.randrange(2000))
            codes[await code_of(channel, junk)] += 1
    return f"{times} connections; {times} calls: {_counted(codes)}"


async def send_metadata(target: str, times: int) -> str:
    """A megabyte of metadata, in many fields and in one."""
    codes: Counter[str] = Counter()
    many = tuple((f"x-{number}", "v" * 1000) for number in range(1000))
    one = (("x", "v" * 1_000_000),)
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        for number in range(times):
            codes[await code_of(channel, b"", many if number % 2 else one)] += 1
    return _counted(codes)


async def send_too_much(target: str, times: int) -> str:
    """Messages of a thousand times their size on the wire, and messages that are too large."""
    codes: Counter[str] = Counter()
    large = bytes(80 << 20)
    for compression in (grpc.Compression.Gzip, grpc.Compression.NoCompression):
        async with grpc.aio.insecure_channel(
            target, options=_OPTIONS, compression=compression
        ) as channel:
            for _ in range(times):
                codes[await code_of(channel, large)] += 1
    return _counted(codes)


def png(width: int, height: int, rows: int) -> bytes:
    """A black image that says it has that size, and has so many *rows*."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


async def send_images(target: str, times: int) -> str:
    """PNGs of a thousand times their size: too large, just not too large, with more than they say.

    The model has to take images.
    """
    large = await asyncio.to_thread(
        lambda: (png(60_000, 60_000, 1), png(6_300, 6_300, 6_300), png(100, 100, 3_000_000))
    )
    requests = []
    for image in large:
        request = wire.PredictRequest()
        request.inputs["images"].dtype = wire.DataType.DT_STRING
        request.inputs["images"].string_val.append(image)
        request.inputs["images"].tensor_shape.dim.add(size=1)
        requests.append(request.SerializeToString())
    codes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        for _ in range(times):
            codes.update(await asyncio.gather(*(code_of(channel, each) for each in requests)))
    return _counted(codes)


async def guess(target: str, times: int) -> str:
    """Tokens that are not valid, as fast as they go."""
    codes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        for begin in range(0, times, 50):
            found = await asyncio.gather(
                *(
                    code_of(channel, b"x" * 100_000, (("authorization", f"Bearer guess-{number}"),))
                    for number in range(begin, begin + 50)
                )
            )
            codes.update(found)
    return _counted(codes)


async def code_of(
    channel: grpc.aio.Channel, payload: bytes, metadata: tuple[tuple[str, str], ...] = ()
) -> str:
    try:
        await channel.unary_unary(PREDICT)(payload, timeout=60, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def _counted(codes: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in codes.most_common())
