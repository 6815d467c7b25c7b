"""A virtual machine with the emulator as its PCI device, and what one can do to it from outside."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm.image import Debian, Qemu
from vm.powercut import Disk, Lost

__all__ = ["DEVICE", "Emulator", "Failed", "Machine", "Output", "Shares"]

DEVICE = "fpga"
"""QEMU's name of the card."""
SLOT = "slot0"
"""QEMU's name of the root port that it is in."""
Shares = Mapping[str, Path]
"""Folders of this host that the guest can mount read-only, by their tags."""
_AGENT_CHUNK = 48 << 10
_SYNCHRONISE = {"execute": "guest-sync-delimited", "arguments": {"id": 1}}


class Failed(Exception):  # noqa: N818  (it is what happened, like pytest's)
    """Something in there did not come about; the message says what, and what was seen."""


@dataclass(frozen=True)
class Output:
    """What became of a command in the guest."""

    status: int
    stdout: str
    stderr: str


class Emulator:
    """The card: a process that outlives the machine it is in.

    Args:
        folder: where its socket and what it says are kept.
        options: for edged-emulator.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "card.sock"
        self._options = options
        self._log = folder / "card.log"
        self._process: subprocess.Popen[bytes] | None = None

    def power_on(self) -> None:
        command = [sys.executable, "-m", "edged.emulator", "--socket", self.socket, "--verbose"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--fault-injection", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _until(self.socket.exists, "the emulator to listen", 60)

    def power_off(self) -> None:
        """As when its power goes: at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def said(self) -> str:
        return self._log.read_text(errors="replace")


class Machine:
    """A PC with the card in a slot that can be opened while it runs, and an IOMMU.

    Args:
        folder: for its disk, its sockets and its console's output.
        shares: each is a 9p file system; see :meth:`mount`.

    Attributes:
        processors: from the next boot on.
    """

    def __init__(
        self,
        folder: Path,
        qemu: Qemu,
        debian: Debian,
        card: Path,
        *,
        shares: Shares | None = None,
        memory_mib: int = 2048,
        iommu: bool = True,
    ) -> None:
        self.folder = folder
        self._disk = Disk(folder, qemu, debian)
        self.console = folder / "console"
        self.processors = 2
        self.port = _free_port()
        """Of this host, for what the guest listens to on port 50051."""
        self._qemu = qemu
        self._debian = debian
        self._card = card
        self._shares = shares or {}
        self._memory = memory_mib
        self._iommu = iommu
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: _Peer | None = None
        self._agent: _Peer | None = None

    # Power.

    def boot(self, *, patience: float = 240) -> float:
        """Switch it on and wait until it takes commands; returns the seconds that it took."""
        began = time.monotonic()
        self._disk.attach()
        sockets = {name: self.folder / f"{name}.sock" for name in ("qmp", "agent")}
        for path in sockets.values():
            path.unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(sockets),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._qemu.environment,
                start_new_session=True,
            )
        try:
            self._monitor = _Peer(self._connected(sockets["qmp"], 60), "QEMU")
            self._monitor.greeting()
            self._monitor.ask("qmp_capabilities")
            left = began + patience - time.monotonic()
            self._monitor.event("VSERPORT_CHANGE", left, id="agent", open=True)
            self._agent = _Peer(self._connected(sockets["agent"], 60), "the guest's agent")
            self._agent.synchronise()
        except Failed as failure:
            raise Failed(f"the machine does not boot: {failure}\n{self.tail()}") from failure
        return time.monotonic() - began

    def cut_power(self, chance: random.Random | None = None) -> Lost:
        """SIGKILL: nothing in there has a moment left.

        Args:
            chance: by which the disk loses what no flush had followed; None: it loses nothing.
        """
        if self._process is None:
            return Lost(0, 0, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for peer in (self._monitor, self._agent):
            if peer is not None:
                peer.close()
        self._process = self._monitor = self._agent = None
        return self._disk.detach(chance)

    def shut_down(self, patience: float = 120) -> None:
        """As an operator does. Nobody in there listens to the button in front."""
        if self._process is None:
            return
        with contextlib.suppress(Failed, subprocess.TimeoutExpired):
            self.begin("systemctl", "poweroff")
            self._process.wait(patience)
        self.cut_power()

    # The hardware.

    def qmp(self, command: str, **arguments: Any) -> Any:
        """A command for QEMU itself."""
        assert self._monitor is not None, "the machine is off"
        return self._monitor.ask(command, **arguments)

    def hmp(self, line: str) -> str:
        """A command that QEMU has for people only."""
        return str(self.qmp("human-monitor-command", **{"command-line": line}))

    def unplug(self, patience: float = 60) -> float:
        """Take the card out, as the button beside the slot does: the guest is asked first."""
        assert self._monitor is not None
        began = time.monotonic()
        self.qmp("device_del", id=DEVICE)
        self._monitor.event("DEVICE_DELETED", patience, device=DEVICE)
        return time.monotonic() - began

    def plug(self) -> None:
        self.qmp("device_add", **self._device())

    # Inside.

    def run(
        self,
        *words: str | Path,
        check: bool = True,
        patience: float = 300,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        """A command in the guest, as root, to its end.

        Raises:
            Failed: it did not end in time, or badly and *check* is set.
        """
        process = self.begin(*words, environment=environment)
        assert self._agent is not None
        deadline = time.monotonic() + patience
        for wait in itertools.chain((0.02, 0.05, 0.1), itertools.repeat(0.2)):
            now = self._agent.ask("guest-exec-status", pid=process)
            if now["exited"]:
                break
            if time.monotonic() > deadline:
                raise Failed(f"{' '.join(map(str, words))}: not done after {patience:.0f} s")
            time.sleep(wait)
        status = int(now.get("exitcode", 128 + int(now.get("signal", 0))))
        out, err = (
            base64.b64decode(now.get(name, "")).decode(errors="replace")
            for name in ("out-data", "err-data")
        )
        if check and status:
            raise Failed(f"{' '.join(map(str, words))}: status {status}\n{out}{err}")
        return Output(status, out, err)

    def begin(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> int:
        """Start a command in the guest, as root; returns its number there."""
        assert self._agent is not None, "the machine is off"
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        begun = self._agent.ask(
            "guest-exec",
            path=str(words[0]),
            arg=[str(word) for word in words[1:]],
            env=[path, "LANG=C.UTF-8", *(f"{k}={v}" for k, v in (environment or {}).items())],
            **{"capture-output": True},
        )
        return int(begun["pid"])

    def ask(self, *words: str) -> str:
        """What a command says, whatever its exit status."""
        return self.run(*words, check=False).stdout.strip()

    def write(self, inside: str, content: str | bytes) -> None:
        """A file in the guest, anew."""
        assert self._agent is not None
        data = content.encode() if isinstance(content, str) else content
        handle = self._agent.ask("guest-file-open", path=inside, mode="w")
        for at in range(0, len(data), _AGENT_CHUNK):
            chunk = base64.b64encode(data[at : at + _AGENT_CHUNK]).decode()
            self._agent.ask("guest-file-write", handle=handle, **{"buf-b64": chunk})
        self._agent.ask("guest-file-close", handle=handle)

    def mount(self, tag: str, inside: str) -> None:
        """Have one of the shares in the guest, read-only."""
        self.run("mkdir", "-p", inside)
        options = "trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144"
        self.run("mount", "-t", "9p", "-o", options, tag, inside)

    def eventually(self, condition: Callable[[], bool], what: str, patience: float = 240) -> float:
        """Wait for something; returns the seconds that it took.

        Raises:
            Failed: with the end of the journal.
        """
        try:
            # A look from inside takes processors that have better to do.
            return _until(condition, what, patience, self._alive, pause=0.3)
        except Failed as failure:
            said = self.ask("journalctl", "--no-pager", "-n", "60") if self._alive() else ""
            raise Failed(f"{failure}\n{said}\n{self.tail()}") from failure

    def tail(self) -> str:
        """The end of what the console showed and QEMU said."""
        parts = []
        for path in (self.folder / "qemu.log", self.console):
            if path.exists():
                parts.append(path.read_text(errors="replace")[-3000:])
        return "\n".join(parts)

    def aborted(self, saying: str) -> bool:
        """Whether QEMU has ended itself, with *saying* as the last that it said."""
        if self._process is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.returncode != -signal.SIGABRT:
            return False
        return saying in (self.folder / "qemu.log").read_text(errors="replace")[-500:]

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _connected(self, path: Path, patience: float) -> socket.socket:
        _until(path.exists, f"QEMU to listen on {path.name}", patience, self._alive)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(path))
        return sock

    def _device(self) -> dict[str, Any]:
        address = {"type": "unix", "path": str(self._card)}
        return {"driver": "vfio-user-pci", "id": DEVICE, "bus": SLOT, "socket": address}

    def _command(self, sockets: Mapping[str, Path]) -> list[str]:
        size = f"{self._memory}M"
        kernel = ["console=ttyS0", "loglevel=4", "mitigations=off", "init_on_alloc=0"]
        kernel += ["8250.nr_uarts=1", "systemd.show_status=no", "panic=-1"]
        # A unit's patience is for a machine that is not ten to thirty times as slow.
        kernel += ["systemd.default_timeout_start_sec=900", "systemd.service_watchdogs=no"]
        # What is in the journal is in self.console as well, whatever becomes of the machine.
        kernel += ["systemd.journald.forward_to_console=1"]
        kernel += ["systemd.journald.max_level_console=notice"]
        # Where this host has little time for it, the kernel misses ticks as it boots, and panics.
        kernel += ["no_timer_check"]
        kernel += ["intel_iommu=on"] if self._iommu else []
        words: list[str | Path] = ["-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-no-reboot", "-accel", "tcg,thread=multi", "-smp", str(self.processors)]
        # A newer one has more to emulate: importing ONNX Runtime took a third longer.
        words += ["-cpu", "Nehalem"]
        # The card reads and writes the guest's memory itself.
        words += ["-object", f"memory-backend-memfd,id=ram,size={size},share=on", "-m", size]
        words += ["-machine", "q35,kernel-irqchip=split,memory-backend=ram"]
        if self._iommu:
            words += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        words += ["-kernel", self._debian.kernel, "-initrd", self._debian.initrd]
        words += ["-append", " ".join(kernel), "-serial", f"file:{self.console}"]
        words += [*self._disk.options, "-device", "virtio-blk-pci,drive=disk"]
        words += ["-device", "virtio-rng-pci"]
        forward = f"hostfwd=tcp:127.0.0.1:{self.port}-:50051"
        words += ["-netdev", f"user,id=net,restrict=on,{forward}"]
        words += ["-device", "virtio-net-pci,netdev=net,romfile="]
        words += ["-device", f"pcie-root-port,id={SLOT},chassis=1,slot=1"]
        words += ["-device", json.dumps(self._device())]
        words += ["-device", "virtio-serial-pci"]
        words += ["-chardev", f"socket,id=agent,path={sockets['agent']},server=on,wait=off"]
        words += ["-device", "virtserialport,id=agent,chardev=agent,name=org.qemu.guest_agent.0"]
        words += ["-qmp", f"unix:{sockets['qmp']},server=on,wait=off"]
        for tag, path in self._shares.items():
            options = f"path={path},mount_tag={tag},security_model=none,readonly=on"
            words += ["-virtfs", f"local,{options},multidevs=remap"]
        return self._qemu.command("qemu-system-x86_64", *words)


class _Peer:
    """QEMU's monitor or the guest's agent: JSON in lines, both of the same kind."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self._socket = sock
        self._name = name
        self._buffer = b""
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        self._socket.close()

    def greeting(self) -> None:
        self._receive(60)

    def ask(self, command: str, **arguments: Any) -> Any:
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._send(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._receive(120)
            if "error" in answer:
                raise Failed(f"{self._name}: {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]
            self._events.append(answer)

    def event(self, name: str, patience: float, **data: object) -> None:
        """Wait for what QEMU says by itself, which may have come already."""
        deadline = time.monotonic() + patience
        while True:
            for event in self._events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self._events.remove(event)
                    return
            answer = self._receive(deadline - time.monotonic())
            if "event" in answer:
                self._events.append(answer)

    def synchronise(self) -> None:
        """Have the agent forget what others may have said to it before."""
        # What is cut short in its parser ends with the byte that is never in JSON.
        self._send(b"\xff" + json.dumps(_SYNCHRONISE).encode() + b"\n")
        while self._receive(60).get("return") != _SYNCHRONISE["arguments"]["id"]:
            pass

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(60)
            self._socket.sendall(data)
        except OSError as error:
            raise Failed(f"{self._name} is gone: {error}") from error

    def _receive(self, patience: float) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"{self._name} says nothing for {patience:.0f} s")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise Failed(f"{self._name} is gone: {error}") from error
            if not data:
                raise Failed(f"{self._name} is gone")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        return answer


@contextlib.contextmanager
def machine(
    folder: Path, qemu: Qemu, debian: Debian, shares: Shares, *, iommu: bool = True
) -> Iterator[Machine]:
    """A card and a machine around it, off; both are gone afterwards."""
    card = Emulator(folder)
    made = Machine(folder, qemu, debian, card.socket, shares=shares, iommu=iommu)
    card.power_on()
    try:
        yield made
    finally:
        made.cut_power()
        card.power_off()


def _until(
    condition: Callable[[], bool],
    what: str,
    patience: float,
    alive: Callable[[], bool] = lambda: True,
    pause: float = 0.05,
) -> float:
    began = time.monotonic()
    while not condition():
        if not alive():
            raise Failed(f"waited for {what}, and QEMU ended")
        if time.monotonic() - began > patience:
            raise Failed(f"waited {patience:.0f} s for {what}")
        time.sleep(pause)
    return time.monotonic() - began


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
