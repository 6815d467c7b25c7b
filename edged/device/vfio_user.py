"""The transport to a device behind a UNIX socket: the client's side of vfio-user."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import threading
from pathlib import Path
from typing import Final

from edged._vfio_user import (
    BUS_STEPS,
    DEVICE_INFO,
    DMA_MAP,
    DMA_UNMAP,
    GIVEN_MEMORY,
    IRQ_INFO,
    IRQ_SET,
    MAX_MESSAGE,
    MAX_MESSAGE_FDS,
    MAX_TRANSFER,
    REGION_ACCESS,
    REGION_BAR0,
    REGION_CONFIG,
    REGION_INFO,
    VERSION,
    VERSION_MAJOR,
    VERSION_MINOR,
    Command,
    DeviceFlag,
    DmaFlag,
    Header,
    HeaderFlag,
    IrqIndex,
    IrqSetFlag,
)
from edged.device._ladder import Step
from edged.device._transport import GivenMemory
from edged.errors import DeviceError, DeviceLostError, IncompatibleError, LimitError
from edged.nesting import check_nesting
from edged.npu.registers import BAR0_SIZE, QUEUES, Timing

__all__ = ["VfioUserTransport", "connect"]

_TYPE_MASK: Final = int(HeaderFlag.TYPE_MASK)
_REPLY: Final = int(HeaderFlag.REPLY)
_NO_REPLY: Final = int(HeaderFlag.NO_REPLY)
_ERROR: Final = int(HeaderFlag.ERROR)
_ANSWER_SECONDS: Final = Timing.FUNCTION_LEVEL_RESET.seconds
"""Longest wait for a reply; a function-level reset may take ten."""


def connect(path: Path) -> socket.socket:
    """Open a connection to the device that listens at *path*; nothing is said on it yet.

    Raises:
        DeviceLostError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(os.fspath(path))
    except OSError as error:
        connection.close()
        raise DeviceLostError(
            f"cannot reach a device at {path}: {error.strerror or error};"
            " is the emulator running, and does it listen there?"
        ) from error
    return connection


class VfioUserTransport:
    """A :class:`~edged.device.Transport` over a connection from :func:`connect`.

    Args:
        connection: owned from here on.

    Raises:
        DeviceLostError: the other end is gone, or does not answer.
        IncompatibleError: it speaks another protocol, or is no such device.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._lost = False
        self._is_given_memory = False
        self.bus_steps: frozenset[Step] = frozenset()
        connection.settimeout(_ANSWER_SECONDS)
        try:
            self._negotiate()
            self._probe()
        except BaseException:
            connection.close()
            raise

    def region_read(self, offset: int, size: int = 4) -> int:
        return self._read(REGION_BAR0, offset, size)

    def config_read(self, offset: int, size: int) -> int:
        return self._read(REGION_CONFIG, offset, size)

    def region_write(self, offset: int, value: int, size: int = 4, *, posted: bool = False) -> None:
        message = _write(REGION_BAR0, offset, value, size)
        if posted:
            with self._lock:
                self._send(Command.REGION_WRITE, message, _NO_REPLY)
        else:
            self._call(Command.REGION_WRITE, message, expect=REGION_ACCESS.size)

    def config_write(self, offset: int, value: int, size: int) -> None:
        message = _write(REGION_CONFIG, offset, value, size)
        self._call(Command.REGION_WRITE, message, expect=REGION_ACCESS.size)

    def dma_map(self, iova: int, fd: int, offset: int, size: int) -> None:
        flags = DmaFlag.READ | DmaFlag.WRITE
        self._call(Command.DMA_MAP, DMA_MAP.pack(DMA_MAP.size, flags, offset, iova, size), fd)

    def dma_allocate(self, iova: int, size: int) -> GivenMemory | None:
        if not self._is_given_memory:
            return None
        flags = DmaFlag.READ | DmaFlag.WRITE
        given: list[int] = []
        self._call(Command.DMA_MAP, DMA_MAP.pack(DMA_MAP.size, flags, 0, iova, size), given=given)
        if not given:
            raise DeviceError("cannot use device: it gives memory, and gave none")
        return GivenMemory(given[0], iova)

    def dma_unmap(self, iova: int, size: int) -> None:
        message = DMA_UNMAP.pack(DMA_UNMAP.size, 0, iova, size)
        self._call(Command.DMA_UNMAP, message, expect=DMA_UNMAP.size)

    def set_interrupt(self, vector: int, eventfd: int | None) -> None:
        message = IRQ_SET.pack(IRQ_SET.size, IrqSetFlag.CONNECT, IrqIndex.MSI, vector, 1)
        self._call(Command.DEVICE_SET_IRQS, message, eventfd)

    def reset(self) -> None:
        self._call(Command.DEVICE_RESET, b"")

    def reset_bus(self, step: Step) -> None:
        self._call(Command.DEVICE_RESET, step.value.encode())

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        # Shut down first: whoever waits for an answer or polls then hears of it.
        with contextlib.suppress(OSError):  # the other end was first
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._lost = True
            self._socket.close()

    def _read(self, region: int, offset: int, size: int) -> int:
        reply = self._call(
            Command.REGION_READ,
            REGION_ACCESS.pack(offset, region, size),
            expect=REGION_ACCESS.size + size,
        )
        return int.from_bytes(reply[REGION_ACCESS.size :], "little")

    def _negotiate(self) -> None:
        capabilities = {"max_msg_fds": MAX_MESSAGE_FDS, "max_data_xfer_size": MAX_TRANSFER}
        capabilities[BUS_STEPS] = capabilities[GIVEN_MEMORY] = 1
        proposal = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        reply = self._call(
            Command.VERSION,
            VERSION.pack(VERSION_MAJOR, VERSION_MINOR) + proposal,
            expect=None,
        )
        version = VERSION.unpack_from(reply) if len(reply) >= VERSION.size else ()
        if version != (VERSION_MAJOR, VERSION_MINOR):
            raise IncompatibleError(
                f"cannot open device: it speaks vfio-user {version},"
                f" wanted {VERSION_MAJOR}.{VERSION_MINOR}"
            )
        agreed = _capabilities(reply[VERSION.size :])
        self.bus_steps = _bus_steps(agreed)
        self._is_given_memory = bool(agreed.get(GIVEN_MEMORY))

    def _probe(self) -> None:
        info = self._call(
            Command.DEVICE_GET_INFO,
            DEVICE_INFO.pack(DEVICE_INFO.size, 0, 0, 0),
            expect=DEVICE_INFO.size,
        )
        _, flags, _, _ = DEVICE_INFO.unpack(info)
        region = self._call(
            Command.DEVICE_GET_REGION_INFO,
            REGION_INFO.pack(REGION_INFO.size, 0, REGION_BAR0, 0, 0, 0),
            expect=REGION_INFO.size,
        )
        size = REGION_INFO.unpack(region)[4]
        irq = self._call(
            Command.DEVICE_GET_IRQ_INFO,
            IRQ_INFO.pack(IRQ_INFO.size, 0, IrqIndex.MSI, 0),
            expect=IRQ_INFO.size,
        )
        vectors = IRQ_INFO.unpack(irq)[3]
        if not flags & DeviceFlag.PCI or size < BAR0_SIZE or vectors <= QUEUES:
            raise IncompatibleError(
                f"cannot open device: flags {flags:#x}, BAR0 of {size} bytes, {vectors} MSI"
                f" vectors; wanted a PCI device with {BAR0_SIZE} bytes, more than {QUEUES} vectors"
            )

    def _call(
        self,
        command: Command,
        payload: bytes,
        fd: int | None = None,
        *,
        expect: int | None = 0,
        given: list[int] | None = None,
    ) -> bytes:
        """Send a command and wait for its reply.

        Args:
            expect: size of the reply's payload; None takes any.
            given: gets the descriptor that comes with the reply, if there is one.
        """
        with self._lock:
            message_id = self._send(command, payload, 0, fd)
            header = Header.unpack(self._receive(Header.SIZE, given))
            if (
                (header.message_id, header.command) != (message_id, command)
                or header.flags & _TYPE_MASK != _REPLY
                or not Header.SIZE <= header.size <= MAX_MESSAGE
            ):
                raise self._lose(f"reply {header} does not belong to {command.name}")
            reply = self._receive(header.size - Header.SIZE)
        if header.flags & _ERROR:
            raise _refusal(command, header.error)
        if expect is not None and len(reply) != expect:
            raise DeviceError(
                f"cannot use device: {command.name} answered {len(reply)} bytes, wanted {expect}"
            )
        return reply

    def _send(self, command: Command, payload: bytes, flags: int, fd: int | None = None) -> int:
        if self._lost:
            raise DeviceLostError("cannot reach device: its connection is closed")
        message_id = next(self._ids) & 0xFFFF
        header = Header(message_id, command, Header.SIZE + len(payload), flags)
        message = header.pack() + payload
        try:
            if fd is None:
                self._socket.sendall(message)
            else:
                # A few dozen bytes: the kernel takes them whole.
                socket.send_fds(self._socket, [message], [fd])
        except OSError as error:
            raise self._lose(error.strerror or str(error)) from error
        return message_id

    def _receive(self, size: int, given: list[int] | None = None) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                if given is None:
                    part = self._socket.recv(size - len(data))
                else:
                    part, fds, _, _ = socket.recv_fds(
                        self._socket, size - len(data), 1, socket.MSG_CMSG_CLOEXEC
                    )
                    given += fds
            except OSError as error:
                raise self._lose(error.strerror or str(error)) from error
            if not part:
                raise self._lose("it closed the connection")
            data += part
        return bytes(data)

    def _lose(self, reason: str) -> DeviceLostError:
        """After this nothing on the connection can be trusted to be in step."""
        self._lost = True
        return DeviceLostError(f"cannot reach device: {reason}")


def _capabilities(data: bytes) -> dict[str, object]:
    """Of the reply to the version; an absent or odd list has none."""
    try:
        text = data.rstrip(b"\0") or b"{}"
        check_nesting(text)
        return dict(json.loads(text)["capabilities"])
    except (ValueError, LookupError, TypeError):
        return {}


def _bus_steps(agreed: dict[str, object]) -> frozenset[Step]:
    """What it does not name as we do is not offered."""
    named = agreed.get(BUS_STEPS)
    return frozenset(step for step in Step if isinstance(named, list) and step.value in named)


def _write(region: int, offset: int, value: int, size: int) -> bytes:
    return REGION_ACCESS.pack(offset, region, size) + value.to_bytes(size, "little")


def _refusal(command: Command, number: int) -> DeviceError | DeviceLostError | LimitError:
    if number == errno.ENODEV:
        return DeviceLostError(
            f"cannot {command.name}: the card behind the socket is lost (ENODEV); it is opened"
            " again when it is back"
        )
    if number == errno.EBUSY:
        return DeviceError(
            f"cannot {command.name}: another opening of the device holds it (EBUSY);"
            " close that one first"
        )
    if number == errno.ENOMEM:
        return LimitError(
            f"cannot {command.name}: there is not as much memory that the card can reach (ENOMEM);"
            " the log of edged-card says which limit to raise"
        )
    name = errno.errorcode.get(number, str(number))
    return DeviceError(f"cannot {command.name}: the device refused it ({name})")
