"""A Debian in a folder, made once with mmdebstrap; nothing of it touches the system's own packages.

Packages come from the mirror that the system itself uses, or else from Debian's own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MIRROR", "SUITES", "make_debian", "mirror", "release"]

MIRROR = "http://deb.debian.org/debian"
SUITES = {12: "bookworm", 13: "trixie"}
"""The releases that edged is tried on, by their numbers."""


def make_debian(root: Path, packages: Sequence[str], suite: str, *options: str) -> None:
    """Make *root*, whole or not at all; it stays as it is when it is there.

    Args:
        packages: beside what every Debian has.
        suite: one of :data:`SUITES`.
        options: for mmdebstrap.

    Raises:
        subprocess.CalledProcessError: mmdebstrap said why on standard error.
    """
    if root.exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    made = root.with_name(f"{root.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    include = ",".join(packages)
    command = ["mmdebstrap", "--quiet", f"--include={include}", *options, suite, str(made)]
    if mirror() != MIRROR:
        command.append(mirror())
    subprocess.run(command, check=True)
    made.rename(root)


def release() -> int:
    """The release that this system is, or else the oldest of those that edged is tried on."""
    text = Path("/etc/os-release").read_text()
    (number,) = re.findall(r'^VERSION_ID="?(\d+)"?$', text, re.MULTILINE)[:1] or ["0"]
    is_debian = re.search(r"^ID=debian$", text, re.MULTILINE)
    return int(number) if is_debian and int(number) in SUITES else min(SUITES)


def mirror() -> str:
    """Where this system has Debian from."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (found.stdout.split() or [MIRROR])[0].rstrip("/")
