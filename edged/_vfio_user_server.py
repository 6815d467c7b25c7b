"""The server's side of vfio-user: one loop over all connections, each an opening of one device.

What the device is, is for who serves it to say: the emulator, or a card of which this process is
the one user that the kernel allows.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import heapq
import itertools
import json
import logging
import mmap
import os
import selectors
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

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
    NUM_IRQS,
    NUM_REGIONS,
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
    IrqFlag,
    IrqIndex,
    IrqSetFlag,
    RegionFlag,
)
from edged.errors import ConfigError
from edged.nesting import check_nesting

__all__ = [
    "Busy",
    "DmaMap",
    "Interrupts",
    "Opening",
    "Served",
    "Server",
    "copied_eventfd",
    "mapped_file",
]

_LOG = logging.getLogger(__name__)
# Plain integers: an operation on a flag of enum takes a microsecond, and each message has three.
_TYPE_MASK: Final = int(HeaderFlag.TYPE_MASK)
_REPLY: Final = int(HeaderFlag.REPLY)
_NO_REPLY: Final = int(HeaderFlag.NO_REPLY)
_ERROR: Final = int(HeaderFlag.ERROR)
_MAX_CONNECTIONS: Final = 16
_MESSAGES_PER_TURN: Final = 16
"""Handled for one connection before the others have their turn."""
_MAX_PATH: Final = 107
_CAPABILITIES: Final = {
    "max_msg_fds": MAX_MESSAGE_FDS,
    "max_data_xfer_size": MAX_TRANSFER,
    "max_dma_maps": 1024,
    "pgsizes": 4096,
}


class Busy(Exception):  # noqa: N818  (becomes EBUSY)
    """Another opening holds what was written to; never leaves the server."""


class DmaMap(Protocol):
    """What one opening lets the device reach. OSError becomes the error that the client is told."""

    def map(
        self, address: int, size: int, flags: DmaFlag, fd: int | None, offset: int
    ) -> int | None:
        """Let the device reach *size* bytes at *address*, kept in the file *fd* from *offset*.

        Returns:
            where the device gives the memory (:attr:`Served.gives_memory`): that file, the caller's
            from here on.
        """

    def unmap(self, address: int, size: int) -> None:
        """Let go of a range, as it was mapped."""


class Interrupts(Protocol):
    """Whom one opening wants to be told."""

    def set_msi(self, start: int, eventfds: Sequence[int | None]) -> None:
        """Signal vectors from *start* on through copies of these, or not at all."""

    def set_intx(self, eventfd: int | None) -> None:
        """Signal INTx through a copy of this, or not at all."""

    def mask_intx(self, masked: bool) -> None:
        """Hold INTx back, or no longer."""


class Opening(Protocol):
    """One connection's hold on the device."""

    @property
    def memory(self) -> DmaMap: ...

    @property
    def interrupts(self) -> Interrupts: ...


_Opening = TypeVar("_Opening", bound=Opening)


class Served(Protocol[_Opening]):
    """A device that may be opened several times. Only the server's loop calls it.

    OSError becomes the error that a client is told, and :class:`Busy` EBUSY.
    """

    @property
    def bar0_size(self) -> int: ...

    @property
    def config_size(self) -> int: ...

    @property
    def msi_vectors(self) -> int: ...

    @property
    def gives_memory(self) -> bool:
        """Whether it can reach no memory but what it gives itself."""

    @property
    def bus_steps(self) -> tuple[str, ...]:
        """Resets beyond that of the function, by their names."""

    def reset_bus(self, opening: _Opening, step: str) -> None:
        """Do one of these."""

    def open(self) -> _Opening:
        """A new opening, with nothing mapped and no interrupts."""

    def close(self, opening: _Opening) -> None:
        """Let go of all that an opening held."""

    def read(self, opening: _Opening, offset: int, size: int) -> bytes:
        """*size* bytes of BAR0; the range is inside of it."""

    def write(self, opening: _Opening, offset: int, data: bytes) -> None:
        """Write to BAR0; the range is inside of it."""

    def read_config(self, offset: int, size: int) -> bytes:
        """*size* bytes of the configuration space; the range is inside of it."""

    def write_config(self, opening: _Opening, offset: int, data: bytes) -> None:
        """Write to the configuration space; the range is inside of it."""

    def function_level_reset(self, opening: _Opening) -> bool:
        """Reset everything; whether that was done within its time."""


def copied_eventfd(fd: int) -> int:
    """A copy of a client's descriptor.

    Raises:
        OSError: EINVAL, another kind of file, which could block the device when it is written to.
    """
    if "[eventfd]" not in str(Path(f"/proc/self/fd/{fd}").readlink()):
        raise OSError(errno.EINVAL, "not an eventfd")
    return os.dup(fd)


def mapped_file(fd: int, offset: int, size: int, flags: DmaFlag) -> mmap.mmap:
    """A client's memory.

    The file has to be sealed against shrinking, or a client could pull the memory from under a
    copy and kill this process with SIGBUS; only a memfd can be.

    Raises:
        OSError: with the errno that the client is told.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        sealed = 0
    if not sealed:
        raise OSError(errno.EPERM, "file is not sealed with F_SEAL_SHRINK")
    if offset % mmap.ALLOCATIONGRANULARITY or offset + size > os.fstat(fd).st_size:
        raise OSError(errno.EINVAL, "range is outside the file or not page aligned")
    protection = mmap.PROT_READ if DmaFlag.READ in flags else 0
    if DmaFlag.WRITE in flags:
        protection |= mmap.PROT_WRITE
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=protection, offset=offset)


class Server(Generic[_Opening]):
    """Listens on *path* and serves *device* until stopped.

    Args:
        mode: permissions of the socket.

    Raises:
        ConfigError: the path cannot be listened on, or another server does.
    """

    def __init__(self, path: Path, device: Served[_Opening], mode: int = 0o600) -> None:
        self._path = path
        self._device = device
        self._mode = mode
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stopping = False
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection[_Opening]] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self.appear()

    def serve(self) -> None:
        """Until :meth:`stop`; then every connection is closed and the socket file is gone."""
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._next_timer()):
                    key.data()
                while self._timers and self._timers[0][0] <= time.monotonic():
                    heapq.heappop(self._timers)[2]()
        finally:
            self.disappear()
            self._selector.close()
            os.close(self._wake)

    def stop(self) -> None:
        """End :meth:`serve`. May be called from any thread."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def call(self, act: Callable[[], None]) -> None:
        """Have *act* done in the loop. May be called from any thread."""
        self._calls.append(act)
        os.eventfd_write(self._wake, 1)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Have *act* done in the loop, so much later. From the loop, or before it."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), act))

    def appear(self) -> None:
        """Listen. From the loop, or before it."""
        self._listener = _listen(self._path, self._mode)
        self._inode = self._path.stat().st_ino
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def disappear(self) -> None:
        """As if the device were pulled out: nobody has it, and nobody can open it."""
        if self._listener is None:
            return
        self._selector.unregister(self._listener)
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        with contextlib.suppress(OSError):  # until nobody waits any more
            while True:
                self._listener.accept()[0].close()
        self._listener.close()
        self._listener = None
        for connection in tuple(self._connections):
            self._drop(connection)

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        while self._calls:
            self._calls.popleft()()

    def _next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            _LOG.warning("cannot accept a connection: %s", error.strerror)
            return
        if len(self._connections) >= _MAX_CONNECTIONS:
            _LOG.warning("refused a connection: %d are open", len(self._connections))
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock, self._device)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._turn(connection))

    def _turn(self, connection: _Connection[_Opening]) -> None:
        """Answer what has come, as long as the peer takes the answers."""
        if connection not in self._connections:
            return  # dropped by what was handled just before
        try:
            connection.turn()
        except (OSError, _Malformed) as error:
            if str(error):
                _LOG.warning("dropped a connection: %s", error)
            self._drop(connection)
            return
        events = selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ
        if self._selector.get_key(connection.socket).events != events:
            self._selector.modify(connection.socket, events, lambda: self._turn(connection))

    def _drop(self, connection: _Connection[_Opening]) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.socket)
        connection.close()


class _Malformed(Exception):  # noqa: N818
    """What came is no message of the protocol: the connection cannot go on."""


class _Connection(Generic[_Opening]):
    """One client: parses its messages, carries them out on the device, answers."""

    def __init__(self, sock: socket.socket, device: Served[_Opening]) -> None:
        self.socket = sock
        self.unsent = bytearray()
        self._device = device
        self._opening = device.open()
        self._buffer = bytearray()
        self._header: Header | None = None
        self._fds: list[int] = []
        self._given: list[int] = []
        self._negotiated = False

    def turn(self) -> None:
        """Send what waits, then take messages until there are none, or enough for now.

        Raises:
            OSError, _Malformed: the connection is to be dropped.
        """
        for _ in range(_MESSAGES_PER_TURN):
            try:
                if self.unsent:
                    # All that is unsent is one answer: the next is made after it.
                    sent = socket.send_fds(self.socket, [self.unsent], self._given)
                    del self.unsent[:sent]
                    self._close_fds()
                if self.unsent:
                    return
                message = self._receive()
            except BlockingIOError:
                return
            self.unsent += self._answer(*message)

    def close(self) -> None:
        self.socket.close()
        self._close_fds()
        self._device.close(self._opening)

    def _receive(self) -> tuple[Header, bytes]:
        """The next message; raises BlockingIOError when it is not all there.

        Header and payload are read apart, so that descriptors stay with their message: the kernel
        gives them with the first byte that they were sent with.
        """
        if self._header is None:
            self._fill(Header.SIZE)
            header = Header.unpack(self._buffer)
            if not Header.SIZE <= header.size <= MAX_MESSAGE:
                raise _Malformed(f"message of {header.size} bytes, wanted 16 … {MAX_MESSAGE}")
            if header.flags & _TYPE_MASK:
                raise _Malformed("a reply to nothing")
            self._header = header
        header = self._header
        self._fill(header.size)
        payload = bytes(self._buffer[Header.SIZE :])
        self._header = None
        self._buffer.clear()
        return header, payload

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data, ancillary, flags, _ = self.socket.recvmsg(
                size - len(self._buffer),
                socket.CMSG_SPACE(4 * MAX_MESSAGE_FDS),
                socket.MSG_CMSG_CLOEXEC,
            )
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds = array.array("i")
                    fds.frombytes(content[: len(content) // 4 * 4])
                    self._fds += fds
            if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_MESSAGE_FDS:
                raise _Malformed(f"more than {MAX_MESSAGE_FDS} descriptors in a message")
            if not data:
                raise _Malformed("cut off inside a message" if self._buffer else "")
            self._buffer += data

    def _answer(self, header: Header, payload: bytes) -> bytes:
        """Carry out one command.

        Returns:
            The reply; empty when none is wanted.
        """
        flags, error, reply = _REPLY, 0, b""
        try:
            if not self._negotiated and header.command != Command.VERSION:
                raise _Malformed(f"command {header.command} before the version")
            handler = _HANDLERS.get(header.command)
            if handler is None:
                raise OSError(errno.ENOSYS, f"command {header.command}")
            reply = handler(self, payload)
        except Busy as busy:
            _LOG.warning("refused %s: %s", _command_name(header), busy)
            error = errno.EBUSY
        except OSError as refusal:
            _LOG.warning("refused %s: %s", _command_name(header), refusal.strerror)
            error = refusal.errno or errno.EINVAL
        finally:
            for fd in self._fds:
                os.close(fd)
            self._fds.clear()
        if header.flags & _NO_REPLY:
            self._close_fds()
            return b""
        if error:
            flags, reply = flags | _ERROR, b""
        size = Header.SIZE + len(reply)
        return Header(header.message_id, header.command, size, flags, error).pack() + reply

    def _close_fds(self) -> None:
        for fd in (*self._fds, *self._given):
            os.close(fd)
        self._fds.clear()
        self._given.clear()

    # Commands: each takes the payload and gives the reply's; OSError becomes an error reply.

    def version(self, payload: bytes) -> bytes:
        if self._negotiated or len(payload) < VERSION.size:
            raise _Malformed("version asked for twice, or cut short")
        major, minor = VERSION.unpack_from(payload)
        if major != VERSION_MAJOR:
            raise _Malformed(f"protocol {major}.{minor}, wanted {VERSION_MAJOR}.{VERSION_MINOR}")
        proposed = _proposed_capabilities(payload[VERSION.size :])
        capabilities: dict[str, object] = {
            name: value for name, value in _CAPABILITIES.items() if name in proposed
        }
        if BUS_STEPS in proposed and self._device.bus_steps:
            capabilities[BUS_STEPS] = self._device.bus_steps
        if GIVEN_MEMORY in proposed and self._device.gives_memory:
            capabilities[GIVEN_MEMORY] = 1
        self._negotiated = True
        answer = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        return VERSION.pack(VERSION_MAJOR, min(minor, VERSION_MINOR)) + answer

    def dma_map(self, payload: bytes) -> bytes:
        _wants(payload, DMA_MAP.size)
        _, flags, offset, address, size = DMA_MAP.unpack(payload)
        if flags & ~(DmaFlag.READ | DmaFlag.WRITE) or len(self._fds) > 1:
            raise OSError(errno.EINVAL, "unknown flags or more than one descriptor")
        fd = self._fds[0] if self._fds else None
        given = self._opening.memory.map(address, size, DmaFlag(flags), fd, offset)
        if given is not None:
            self._given.append(given)
        return b""

    def dma_unmap(self, payload: bytes) -> bytes:
        _wants(payload, DMA_UNMAP.size)
        _, flags, address, size = DMA_UNMAP.unpack(payload)
        if flags:
            raise OSError(errno.EINVAL, "unknown flags")
        self._opening.memory.unmap(address, size)
        return payload

    def device_info(self, payload: bytes) -> bytes:
        _wants(payload, DEVICE_INFO.size)
        flags = DeviceFlag.RESET | DeviceFlag.PCI
        return DEVICE_INFO.pack(DEVICE_INFO.size, flags, NUM_REGIONS, NUM_IRQS)

    def region_info(self, payload: bytes) -> bytes:
        _wants(payload, REGION_INFO.size)
        index = REGION_INFO.unpack(payload)[2]
        if index >= NUM_REGIONS:
            raise OSError(errno.EINVAL, f"no region {index}")
        size = self._size_of(index)
        flags = RegionFlag.READ | RegionFlag.WRITE if size else 0
        return REGION_INFO.pack(REGION_INFO.size, flags, index, 0, size, 0)

    def irq_info(self, payload: bytes) -> bytes:
        _wants(payload, IRQ_INFO.size)
        index = IRQ_INFO.unpack(payload)[2]
        if index >= NUM_IRQS:
            raise OSError(errno.EINVAL, f"no interrupt type {index}")
        flags, count = {
            IrqIndex.INTX: (IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED, 1),
            IrqIndex.MSI: (IrqFlag.EVENTFD, self._device.msi_vectors),
        }.get(index, (IrqFlag(0), 0))
        return IRQ_INFO.pack(IRQ_INFO.size, flags, index, count)

    def set_irqs(self, payload: bytes) -> bytes:
        if len(payload) < IRQ_SET.size:
            raise OSError(errno.EINVAL, "cut short")
        _, flags, index, start, count = IRQ_SET.unpack_from(payload)
        interrupts = self._opening.interrupts
        match (index, flags):
            case (IrqIndex.MSI, IrqSetFlag.CONNECT):
                interrupts.set_msi(start, self._eventfds(count, self._device.msi_vectors))
            case (IrqIndex.MSI, IrqSetFlag.DISCONNECT_ALL) if count == 0:
                interrupts.set_msi(0, [None] * self._device.msi_vectors)
            case (IrqIndex.INTX, IrqSetFlag.CONNECT) if start == 0 and count == 1:
                interrupts.set_intx(self._eventfds(1, 1)[0])
            case (IrqIndex.INTX, IrqSetFlag.DISCONNECT_ALL) if count == 0:
                interrupts.set_intx(None)
            case (IrqIndex.INTX, IrqSetFlag.MASK | IrqSetFlag.UNMASK):
                interrupts.mask_intx(flags == IrqSetFlag.MASK)
            case _:
                raise OSError(errno.EINVAL, f"interrupt type {index}, flags {flags:#x}")
        return b""

    def _eventfds(self, count: int, limit: int) -> list[int | None]:
        """The descriptors of this message; none of them disconnects *count* vectors."""
        if not 0 < count <= limit or len(self._fds) not in (0, count):
            raise OSError(errno.EINVAL, f"{len(self._fds)} descriptors for {count} vectors")
        return list(self._fds) or [None] * count

    def region_read(self, payload: bytes) -> bytes:
        _wants(payload, REGION_ACCESS.size)
        offset, region, count = REGION_ACCESS.unpack(payload)
        self._check_access(offset, region, count)
        if region == REGION_BAR0:
            data = self._device.read(self._opening, offset, count)
        else:
            data = self._device.read_config(offset, count)
        return payload + data

    def region_write(self, payload: bytes) -> bytes:
        if len(payload) < REGION_ACCESS.size:
            raise OSError(errno.EINVAL, "cut short")
        offset, region, count = REGION_ACCESS.unpack_from(payload)
        self._check_access(offset, region, count)
        data = payload[REGION_ACCESS.size :]
        if len(data) != count:
            raise OSError(errno.EINVAL, f"{len(data)} bytes of data, {count} announced")
        if region == REGION_BAR0:
            self._device.write(self._opening, offset, data)
        else:
            self._device.write_config(self._opening, offset, data)
        return REGION_ACCESS.pack(offset, region, 0)

    def reset(self, payload: bytes) -> bytes:
        if payload:
            name = payload[:64].decode(errors="replace")
            if name not in self._device.bus_steps:
                raise OSError(errno.EINVAL, f"no such reset: {name!r}")
            self._device.reset_bus(self._opening, name)
            return b""
        if not self._device.function_level_reset(self._opening):
            raise OSError(errno.ETIMEDOUT, "an operation does not end")
        return b""

    def _check_access(self, offset: int, region: int, count: int) -> None:
        size = self._size_of(region)
        if not 0 < count <= MAX_TRANSFER or offset > size or count > size - offset:
            raise OSError(errno.EINVAL, f"region {region}: {offset:#x} + {count} of {size:#x}")

    def _size_of(self, region: int) -> int:
        sizes = {REGION_BAR0: self._device.bar0_size, REGION_CONFIG: self._device.config_size}
        return sizes.get(region, 0)


_HANDLERS: Final[dict[int, Callable[[_Connection[Any], bytes], bytes]]] = {
    Command.VERSION: _Connection.version,
    Command.DMA_MAP: _Connection.dma_map,
    Command.DMA_UNMAP: _Connection.dma_unmap,
    Command.DEVICE_GET_INFO: _Connection.device_info,
    Command.DEVICE_GET_REGION_INFO: _Connection.region_info,
    Command.DEVICE_GET_IRQ_INFO: _Connection.irq_info,
    Command.DEVICE_SET_IRQS: _Connection.set_irqs,
    Command.REGION_READ: _Connection.region_read,
    Command.REGION_WRITE: _Connection.region_write,
    Command.DEVICE_RESET: _Connection.reset,
}


def _wants(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise OSError(errno.EINVAL, f"payload of {len(payload)} bytes, wanted {size}")


def _proposed_capabilities(data: bytes) -> dict[str, object]:
    """Of the version message; an absent or odd list proposes nothing."""
    if not data:
        return {}
    try:
        text = data.rstrip(b"\0")
        check_nesting(text)
        proposal = json.loads(text)
    except ValueError as error:
        raise _Malformed("version data is not JSON") from error
    capabilities = proposal.get("capabilities", {}) if isinstance(proposal, dict) else None
    if not isinstance(capabilities, dict):
        raise _Malformed("version data has no capabilities")
    return capabilities


def _command_name(header: Header) -> str:
    known = header.command in Command.__members__.values()
    return Command(header.command).name if known else f"command {header.command}"


def _listen(path: Path, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ConfigError(f"cannot listen on {path}: a socket's path has at most {_MAX_PATH} bytes")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~mode)  # from its first moment on, nobody else gets in
    try:
        listener.bind(os.fspath(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove what a killed emulator left behind, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen on {path}: something else stands there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError(f"cannot listen on {path}: {error.strerror}") from error
    raise ConfigError(f"cannot listen on {path}: another process serves there already")
