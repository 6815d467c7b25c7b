"""A Debian in a folder, made once with mmdebstrap; nothing of it touches the system's own packages.

Packages come from the mirror that the system itself uses, or else from Debian's own.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MIRROR", "make_debian", "mirror"]

MIRROR = "http://deb.debian.org/debian"


def make_debian(root: Path, packages: Sequence[str], suite: str, *options: str) -> None:
    """Make *root*, whole or not at all; it stays as it is when it is there.

    Args:
        packages: beside what every Debian has.
        suite: such as ``bookworm``.
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


def mirror() -> str:
    """Where this system has Debian from."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (found.stdout.split() or [MIRROR])[0].rstrip("/")
