"""Run a command in a Debian of a release of one's choice, with the project in it and nothing else.

    PYTHONPATH=tests python3 packaging/in_debian.py 13 make test

The Debian is made once with mmdebstrap, in ``build/debian-RELEASE``, and kept. It has the kernel,
the devices and the network of this machine, a virtual environment of its own in the place of the
project's, and takes Python packages from where this machine takes them. What the command writes
into ``build`` is there afterwards. Needs root and mmdebstrap.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from machines.debian import SUITES, make_debian

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "ca-certificates dpkg-dev gcc git libsystemd-dev make pkg-config procps python3 python3-dev"
    " python3-venv bubblewrap"
)
PLACE = "/src"
"""Where the project is in there."""

# The arguments are the root, what to bind over the same path in it, and the command. A mount
# namespace of its own: all of this is gone with the command, and so are its children.
ENTER = """
set -e
root=$1 project=$2 own=$3 binds=$4; shift 4
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/src" "$own" "$project/.venv"
mount --bind "$project" "$root/src"
mount --bind "$own" "$root/src/.venv"
printf '%s' "$binds" | while read -r path; do
    if [ -d "$path" ]; then mkdir -p "$root$path"
    else mkdir -p "$root${path%/*}"; [ -e "$root$path" ] || : >"$root$path"; fi
    mount --bind "$path" "$root$path"
done
cd "$root"
pivot_root . mnt
cd /src
umount -l /mnt
exec "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("release", type=int, choices=sorted(SUITES), help="of Debian")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="run in the project's folder")
    given = parser.parse_args()
    missing = [name for name in ("mmdebstrap", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() or not given.command:
        wanted = f"install {', '.join(missing)}" if missing else "be root, and give a command"
        print(f"cannot run in Debian {given.release}: {wanted}", file=sys.stderr)  # noqa: T201
        return 1
    root = PROJECT / "build" / f"debian-{given.release}"
    if not root.exists():
        print(f"Making a Debian {given.release} in {root}; a minute or two.", file=sys.stderr)  # noqa: T201
    make_debian(root, PACKAGES.split(), SUITES[given.release], "--variant=minbase")
    own = root / "var" / "venv"
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    command += [
        "sh",
        "-c",
        ENTER,
        "sh",
        str(root),
        str(PROJECT),
        str(own),
        "\n".join(taken_along()),
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    return subprocess.run([*command, *given.command], env=environment, check=False).returncode


def taken_along() -> list[str]:
    """What says here how the network is used: resolver, authorities, pip's configuration."""
    files = ["/etc/hosts", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"]
    # The repository of a worktree lies elsewhere.
    git = said("git", "-C", PROJECT, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if git and not Path(git.strip()).is_relative_to(PROJECT):
        files.append(git.strip())
    files += re.findall(
        r"(/\S+), exists: True", said(sys.executable, "-m", "pip", "config", "debug")
    )
    listed = said(sys.executable, "-m", "pip", "config", "list")
    files += re.findall(r"[' ](/[^' ]+)", listed)
    # The pages of an index on disk name files beside it.
    files += [str(Path(index).parent) for index in re.findall(r"file://(/[^' ]+)", listed)]
    return [path for path in dict.fromkeys(files) if Path(path).exists()]


def said(*command: str | Path) -> str:
    """What a command prints; nothing, when there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
