"""What the package installs for shells, in those shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "packaging" / "debian"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

CASES = [
    (["device", "in"], "inject"),
    (["device", "inject", "temp"], "temperature"),
    (["status", "--w"], "--watch"),
]


def run(shell: str, *words: str) -> str:
    done = subprocess.run(
        [shell, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": PATH},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash(words: list[str], expected: str) -> None:
    script = (
        f"source {SCRIPTS}/edgectl.bash; COMP_WORDS=(edgectl {' '.join(words)});"
        f" COMP_CWORD={len(words)}; _edgectl edgectl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    assert run("bash", "--norc", "-c", script).split() == [expected]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("words", "expected"), CASES[:2])
def test_zsh(words: list[str], expected: str) -> None:
    script = (
        f"_arguments() {{ print -r -- $1; }}; words=(edgectl {' '.join(words)});"
        f" CURRENT={len(words) + 1}; source {SCRIPTS}/edgectl.zsh"
    )
    assert f'"{expected}"' in run("zsh", "-f", "-c", script)
