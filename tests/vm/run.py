"""A command in a virtual machine that has the emulator as its PCI device.

    PYTHONPATH=tests python -m vm.run -- lspci -vv
    PYTHONPATH=tests python -m vm.run -- pytest /mnt/edged/tests/device

The project is at /mnt/edged and this Python's packages at /mnt/packages, both read-only and on
PYTHONPATH; ``pytest`` and ``python`` run with Debian's Python, which has to be of the same series.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from vm import image
from vm.machine import Failed, machine

_SHARES = {"edged": image.PROJECT, "packages": Path(sysconfig.get_path("purelib"))}
_ENVIRONMENT = {
    "PYTHONPATH": ":".join(f"/mnt/{tag}" for tag in _SHARES),
    "PYTHONDONTWRITEBYTECODE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "HOME": "/root",
}
_PROGRAMS = {
    "python": ["python3"],
    "pytest": ["python3", "-m", "pytest", "-p", "no:cacheprovider"],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vm.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, help="keep the disk and what was said there")
    parser.add_argument("--no-iommu", action="store_true", help="a machine without one")
    parser.add_argument(
        "--stay", action="store_true", help="afterwards take more commands, one a line, from stdin"
    )
    parser.add_argument("command", nargs="+", metavar="WORD")
    options = parser.parse_args()
    if problem := image.missing():
        sys.stderr.write(f"cannot make a virtual machine: {problem}\n")
        return 69
    qemu, debian = image.qemu(), image.debian()
    with tempfile.TemporaryDirectory(prefix="vm-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with machine(folder, qemu, debian, _SHARES, iommu=not options.no_iommu) as made:
            sys.stderr.write(f"booted in {made.boot():.0f} s\n")
            for tag in _SHARES:
                made.mount(tag, f"/mnt/{tag}")
            status = _run(made, options.command)
            while options.stay and (line := sys.stdin.readline()):
                if line.startswith("qmp "):
                    sys.stdout.write(f"{made.hmp(line[4:])}\n")
                elif line.strip():
                    status = _run(made, ["sh", "-c", line])
            return status


def _run(made, words: list[str]) -> int:
    words = [*_PROGRAMS.get(words[0], [words[0]]), *words[1:]]
    try:
        done = made.run(*words, check=False, patience=3600, environment=_ENVIRONMENT)
    except Failed as failure:
        sys.stderr.write(f"{failure}\n")
        return os.EX_SOFTWARE
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    sys.stdout.flush()
    return done.status


if __name__ == "__main__":
    sys.exit(main())
