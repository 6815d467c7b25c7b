"""The demo, run as its first reader runs it."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from integration.appliance import eventually
from PIL import Image

LONG = 200
"""Seconds until a demo that hangs is given up."""

DEMO = Path(__file__).parents[2] / "packaging" / "demo.py"
FACES = Path(__file__).parents[1] / "data" / "networks" / "face.jpg"


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


def picture_of(folder: Path) -> Path:
    """Where the boxes are drawn: not in *folder*, of which nothing is to be left."""
    return folder.with_name(f"{folder.name}-pictures") / "faces.png"


def start(folder: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Two that run at a time may find the same port free.
        [sys.executable, str(DEMO), "--port", "0", "--picture", str(picture_of(folder))],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "100"},
    )


def test_scores(tmp_path: Path) -> None:
    demo = start(tmp_path)
    output, _ = demo.communicate(timeout=LONG)
    assert demo.returncode == 0, output
    assert "snow leopard" in output
    assert "school bus" in output
    assert len(re.findall(r"│ face +│ 0\.[89]", output)) == 4, output
    with Image.open(picture_of(tmp_path)) as drawn, Image.open(FACES) as photo:
        assert drawn.size == photo.size
        changed = np.asarray(drawn.convert("RGB")) != np.asarray(photo.convert("RGB"))
    assert 0.005 < changed.any(axis=2).mean() < 0.2, "boxes and labels, in the photograph"
    assert "nothing is left running" in output
    assert "edgectl status" not in output, "what is said to be possible has to be possible now"
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []


def test_commands(tmp_path: Path) -> None:
    """Started from a terminal, the demo keeps edged running; each command that it prints works."""
    ours, terminal = pty.openpty()
    demo = start(tmp_path, stdin=terminal)
    try:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line.rstrip())
            if "Ctrl-C" in line:
                break
        commands = [line.strip() for line in lines if line.startswith("  /")]
        names = [command.split()[1] for command in commands]
        assert names == ["score", "status", "top", "models", "push", "rollback"], lines
        for name, command in zip(names, commands, strict=True):
            arguments = shlex.split(command) + (["--once"] if name == "top" else [])
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=LONG, check=False
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            if name == "score":
                assert "face" in done.stdout
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=LONG)
        os.close(ours)
        os.close(terminal)
    assert demo.returncode == 0, "Ctrl-C is how a demo in a terminal ends"
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []


def test_ctrl_c(tmp_path: Path) -> None:
    demo = start(tmp_path)
    try:
        eventually(lambda: len(left_running(tmp_path)) >= 3, "emulator, daemon and packer")
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=LONG)
    finally:
        demo.kill()
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
