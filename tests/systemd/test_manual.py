"""docs/README.md from start to end, as someone new to it would: each command, and what it says."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).parents[2]
DATA = PROJECT / "tests" / "data"
PAGE = PROJECT / "docs" / "README.md"


def steps() -> list[tuple[str, list[str]]]:
    """Each command with its prompt, and the lines that are below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith(("# ", "$ ")):
                found.append((line, []))
            else:
                found[-1][1].append(line)
    return found


def as_said(expected: list[str], said: str) -> bool:
    """Whether it is what the page says, where … stands for anything, also for some lines."""
    pattern = re.escape(_even("\n".join(expected))).replace("…", ".*")
    return re.fullmatch(pattern, _even(said), re.DOTALL) is not None


def _even(text: str) -> str:
    """Columns are as wide as what is in them."""
    return "\n".join(re.sub(" +", " ", line).rstrip() for line in text.strip("\n").splitlines())


def test_the_manual(machine, package: Path, report) -> None:
    machine.run("useradd", "--create-home", "--shell", "/bin/bash", "anne")
    home = machine.path("/home/anne")
    shutil.copy(package, machine.path("/root") / package.name)
    shutil.copy(DATA / "models" / "mobilenet_v2_imagenet.onnx", home / "mobilenet.onnx")
    shutil.copy(DATA / "imagenet_labels_1001.txt", home / "labels.txt")
    shutil.copytree(DATA / "images", home / "photographs")
    (home / "broken.onnx").write_bytes(b"this is no model")
    machine.run("chown", "-R", "anne:", "/home/anne")
    began = time.monotonic()
    for line, expected in steps():
        command = line[2:]
        words = ["su", "-", "anne" if line.startswith("$") else "root", "-c", command]
        # What has just been started takes a moment.
        patience = (
            60 if command.startswith(("edgectl status", "edgectl models", "journalctl")) else 0
        )
        deadline = time.monotonic() + patience
        while True:
            done = machine.run(*words, check=False)
            said = done.stdout + done.stderr
            if as_said(expected, said) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        page = "\n".join(expected)
        assert as_said(expected, said), f"{line}\n{said}\n--- the page says\n{page}"
        # Where the page leaves the words open, it is the status that says that all went well.
        assert expected != ["…"] or done.returncode == 0, f"{line}\n{said}"
    took = time.monotonic() - began
    report("the manual", f"{len(steps())} commands as they stand there, {took:.0f} s")
