"""An appliance of real processes over one folder, that can be hurt at named moments."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from patience import PATIENCE

__all__ = ["Failure", "Rig", "eventually", "stopped", "within"]


class Failure(Exception):  # noqa: N818 (a finding, not an error of the campaign's)
    """Something that was to come did not."""


def eventually(
    condition: Callable[[], object], what: str | Callable[[], str], patience: float = PATIENCE
) -> None:
    """Wait for something outside of this process.

    Raises:
        Failure: it did not come.
    """
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise Failure(f"waited {patience:.0f} s for {said}")
        time.sleep(0.03)


def within(condition: Callable[[], object], seconds: float) -> bool:
    """Whether *condition* comes true in time."""
    with contextlib.suppress(Failure):
        eventually(condition, "it", seconds)
        return True
    return False


class Rig:
    """Emulator and daemon. Nothing in here knows what they do inside.

    Args:
        folder: its path is in the arguments of every process of the appliance, which is how they
            are told from others; short, for the sockets.
        state: a state folder to begin with.
    """

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.folder = folder
        self.state = folder / "disk" / "state"
        self.drop = folder / "drop"
        self.socket = folder / "edged.sock"
        self.log = folder / "log"
        self.device = folder / "device.sock"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.emulator: subprocess.Popen[bytes] | None = None
        self.control = folder / "control.sock"
        self._config = folder / "edged.toml"
        self.log.touch()
        if state is not None:
            shutil.copytree(state, self.state, symlinks=True)
        self.configure()

    def configure(self, settings: str = "") -> None:
        """Write the configuration, with *settings*, which are whole sections, at its end."""
        self._config.write_text(
            '[metrics]\nlisten = "127.0.0.1:0"\n'
            f'[serving]\nlisten = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\n'
            f'socket = "{self.socket}"\n'
            f'[state]\ndirectory = "{self.state}"\n'
            f'[drop]\ndirectory = "{self.drop}"\nrescan_seconds = 0.2\nsettle_seconds = 0.1\n'
            f'[device]\nsocket = "{self.device}"\n[console]\nsocket = "{self.control}"\n'
            f"[container]\ncall_seconds = 3\n{settings}"
        )

    def start_emulator(self, fault: str = "") -> None:
        self.device.unlink(missing_ok=True)
        self.emulator = self._spawn(fault, "edged.emulator", "--socket", str(self.device))

    def start_daemon(self, fault: str = "") -> None:
        self.daemon = self._spawn(fault, "edged", "--config", str(self._config))

    def edgectl(self, *arguments: str) -> None:
        """Run a command of the management, whatever comes of it."""
        words = [sys.executable, "-m", "edged.cli", *arguments, "--socket", str(self.control)]
        with self.log.open("ab") as log:
            subprocess.run(words, stdout=log, stderr=log, check=False, timeout=PATIENCE)

    def struck(self, name: str) -> int:
        """How often the fault of that name has struck."""
        return self.log.read_text(errors="replace").count(f"fault: {name}:")

    def up(self) -> bool:
        """Whether the daemon takes what is dropped."""
        return self.socket.exists() and self.drop.exists()

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        """At once, as a power cut would."""
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def containers(self) -> list[int]:
        """The processes that hold models, the oldest first: not the sandbox around them."""
        return [pid for pid, words in self._processes() if "edged.container.worker" in words]

    def compilers(self) -> list[int]:
        return [pid for pid, words in self._processes() if "edged.compiler" in words]

    def strays(self) -> list[str]:
        """What belongs to the appliance besides daemon and emulator, sandboxes left out."""
        known = {process.pid for process in (self.daemon, self.emulator) if process}
        return [f"{pid}: {words}" for pid, words in self._processes() if pid not in known]

    def close(self) -> None:
        for process in (self.daemon, self.emulator):
            self.kill(process)
        for pid, _ in self._processes():
            os.kill(pid, signal.SIGKILL)

    def _spawn(self, fault: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "EDGED_FAULT": fault}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _processes(self) -> list[tuple[int, str]]:
        found = []
        for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            line = " ".join(words)
            if f"{self.folder}/" in line and not words[0].endswith("bwrap") and state != "Z":
                found.append((int(entry.name), line))
        return found


def stopped(pid: int) -> bool:
    """Whether the process stands still after SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
