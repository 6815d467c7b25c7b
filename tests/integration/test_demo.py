"""The demo, run as its first reader runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from integration.appliance import eventually

DEMO = Path(__file__).parents[2] / "packaging" / "demo.py"


def left_running(folder: Path) -> list[str]:
    """Command lines of the processes that know *folder*."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Two that run at a time may find the same port free.
        [sys.executable, str(DEMO), "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "100"},
    )


def test_scores(tmp_path: Path) -> None:
    demo = start(tmp_path)
    output, _ = demo.communicate(timeout=110)
    assert demo.returncode == 0, output
    assert "snow leopard" in output
    assert "school bus" in output
    assert "edgectl score" in output
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []


def test_ctrl_c(tmp_path: Path) -> None:
    demo = start(tmp_path)
    try:
        eventually(lambda: len(left_running(tmp_path)) >= 3, "emulator, daemon and packer")
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
