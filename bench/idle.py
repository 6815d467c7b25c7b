"""What edged takes while nobody wants anything of it: processor, wake-ups, memory, writes.

An appliance with one model loaded and no client, watched from outside; a table comes of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from integration.appliance import DATA, Appliance, eventually

_TICKS = os.sysconf("SC_CLK_TCK")
# What the issue asks of the daemon: part of a core.
_BAR = 0.005


@dataclass(frozen=True)
class Taken:
    """What a process has taken since it began.

    Attributes:
        cpu: seconds.
        wakeups: times that one of its threads was woken.
        written: bytes handed to write(2) and the like, wherever they went.
        memory: resident now, bytes; what it shares with others counts in part.
    """

    cpu: float
    wakeups: int
    written: int
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch")
    parser.add_argument("--settle", type=float, default=15.0, help="how long to wait before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edged-idle-") as folder:
        appliance = Appliance(Path(folder))
        # As an appliance is installed, not as tests hurry it.
        text = appliance.config.read_text()
        appliance.config.write_text(
            text.replace("rescan_seconds = 0.2\n", "").replace("settle_seconds = 0.1\n", "")
        )
        try:
            appliance.start_emulator()
            appliance.start_daemon()
            appliance.put(DATA / "models" / "kws_dscnn.onnx")
            time.sleep(arguments.settle)
            ok = _watch(appliance, arguments.seconds)
        finally:
            appliance.close()
    sys.exit(0 if ok else 1)


def _watch(appliance: Appliance, seconds: float) -> bool:
    assert appliance.daemon is not None and appliance.emulator is not None
    processes = {"daemon": appliance.daemon.pid, "emulator": appliance.emulator.pid}
    eventually(lambda: any(_containers(appliance.daemon.pid)), "the container")
    processes["container"] = list(_containers(appliance.daemon.pid))[-1]
    before = {name: _taken(pid) for name, pid in processes.items()}
    files, began = _files(appliance.folder), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    changed = [name for name, state in _files(appliance.folder).items() if files.get(name) != state]
    print(f"{'':10} {'of a core':>10} {'wake-ups/s':>11} {'bytes/s':>9} {'memory':>10}")
    for name, pid in processes.items():
        now, then = _taken(pid), before[name]
        cpu, wakeups = (now.cpu - then.cpu) / took, (now.wakeups - then.wakeups) / took
        written = (now.written - then.written) / took
        print(f"{name:10} {cpu:10.2%} {wakeups:11.1f} {written:9.0f} {now.memory / 1e6:7.1f} MB")
    print(f"files written in {took:.0f} s: {', '.join(changed) or 'none'}")
    share = (_taken(processes["daemon"]).cpu - before["daemon"].cpu) / took
    return share < _BAR and not changed


def _containers(daemon: int) -> Iterator[int]:
    """The processes that hold a model, the daemon's own before those that bubblewrap made."""
    ours = {daemon}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            words = (process / "cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent in ours:
            ours.add(int(process.name))
            if "edged.container.worker" in words:
                yield int(process.name)


def _taken(pid: int) -> Taken:
    process = Path("/proc") / str(pid)
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    wakeups = 0
    for thread in (process / "task").iterdir():
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                wakeups += int(line.split()[1])
    io = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
    sizes = (process / "smaps_rollup").read_text().splitlines()
    memory = next(int(line.split()[1]) << 10 for line in sizes if line.startswith("Pss:"))
    return Taken((int(fields[11]) + int(fields[12])) / _TICKS, wakeups, int(io["wchar"]), memory)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is below, by its name: when it was changed, and its size."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        str(path.relative_to(folder)): (state.st_mtime_ns, state.st_size)
        for path, state in found.items()
    }


if __name__ == "__main__":
    main()
