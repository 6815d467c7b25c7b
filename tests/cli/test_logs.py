"""``edgectl logs`` hands over to journalctl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def logs(path: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.cli", "logs", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )


def test_journalctl_is_asked_for_the_units(tmp_path: Path) -> None:
    journalctl = tmp_path / "journalctl"
    journalctl.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    journalctl.chmod(0o755)
    done = logs(f"{tmp_path}:/bin:/usr/bin", "-f", "-n", "5", "--since", "1 hour ago")
    assert done.stdout.splitlines() == [
        "--catalog",
        "--lines=5",
        "--unit=edged.service",
        "--unit=edged-emulator.service",
        "--unit=edged-container@*.service",
        "--follow",
        "--since=1 hour ago",
    ]


def test_without_journalctl_it_says_where_the_log_is(tmp_path: Path) -> None:
    done = logs(str(tmp_path))
    assert done.returncode == 66
    assert "without systemd, edged logs to its standard error" in done.stderr
