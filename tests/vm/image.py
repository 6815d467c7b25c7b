"""What a virtual machine is made of: QEMU in a folder of its own, and a Debian as a disk image.

Both are made once and kept in build/vm (or EDGED_VM_FOLDER). Making the image takes root; using it
does not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from machines.debian import make_debian, mirror

__all__ = ["Debian", "Qemu", "debian", "missing", "qemu"]

PROJECT = Path(__file__).parent.parent.parent
FOLDER = Path(os.environ.get("EDGED_VM_FOLDER", PROJECT / "build" / "vm"))
DISK_BYTES = 4 << 30

_PACKAGES = (
    "linux-image-amd64 qemu-guest-agent systemd-sysv udev pciutils dbus python3 libseccomp2"
    " libsystemd0 procps kmod ca-certificates"
).split()
# Of the drivers, those for what the machine has. A whole kernel package is half a gigabyte.
_LEFT_OUT = (
    *("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"),
    *("/lib/modules/*/kernel/drivers/*", "/lib/modules/*/kernel/sound/*"),
    "/lib/modules/*/kernel/arch/x86/kvm/*",
)
_PUT_IN = tuple(
    f"/lib/modules/*/kernel/drivers/{drivers}"
    for drivers in ("virtio/*", "vfio/*", "uio/*", "block/*", "char/*", "net/*.ko", "pci/*")
)
_INITRD_MODULES = "virtio_pci virtio_blk ext4"
_NETWORK = "[Match]\nName=en*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
# Nobody looks at the screen, updates it, or waits for names: a boot takes half the time without.
_MASKED = (
    *("getty.target", "getty@tty1.service", "serial-getty@ttyS0.service", "e2scrub_reap.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("fstrim.timer", "systemd-binfmt.service", "systemd-update-utmp.service"),
    *("systemd-networkd-wait-online.service", "systemd-random-seed.service"),
    *("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "modprobe@drm.service"),
    *("proc-sys-fs-binfmt_misc.automount", "systemd-update-utmp-runlevel.service"),
)
_RECIPE = "\n".join((*_PACKAGES, *_LEFT_OUT, *_PUT_IN, _INITRD_MODULES, _NETWORK, *_MASKED))


@dataclass(frozen=True)
class Qemu:
    """QEMU 11 and the libraries that it was built with, in *root*."""

    root: Path

    def command(self, program: str, *words: str | Path) -> list[str]:
        """How to run one of its programs with its own loader, whatever this system has."""
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        loader = libraries / "ld-linux-x86-64.so.2"
        start = [loader, "--library-path", libraries, self.root / "usr/bin" / program]
        if program.startswith("qemu-system"):
            for firmware in ("seabios", "qemu"):
                start += ["-L", self.root / "usr/share" / firmware]
        return [*map(str, start), *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        modules = self.root / "usr/lib/x86_64-linux-gnu/qemu"
        return {**os.environ, "QEMU_MODULE_DIR": str(modules)}


@dataclass(frozen=True)
class Debian:
    """A Debian 12 that nothing was installed in yet, and its kernel. Use it through an overlay."""

    disk: Path
    kernel: Path
    initrd: Path


def missing() -> str:
    """What keeps these from being made here; empty when they are there or can be."""
    if _image().disk.exists() and (FOLDER / "qemu").exists():
        return ""
    programs = [
        name for name in ("mmdebstrap", "mkfs.ext4", "apt-get") if shutil.which(name) is None
    ]
    if programs:
        return f"{', '.join(programs)} not there (Debian: mmdebstrap e2fsprogs)"
    return "only root can make the disk image" if os.geteuid() else ""


def qemu() -> Qemu:
    """Debian 13 has QEMU 10; the backports have the one with vfio-user-pci."""
    root = FOLDER / "qemu"
    make_debian(
        root,
        ["qemu-system-x86", "qemu-utils"],
        "trixie",
        "--variant=extract",
        '--aptopt=APT::Default-Release "trixie-backports"',
        f"--setup-hook=echo deb {mirror()} trixie-backports main"
        ' > "$1/etc/apt/sources.list.d/backports.list"',
    )
    return Qemu(root)


def debian() -> Debian:
    """Make the image when there is none of this recipe."""
    image = _image()
    if image.disk.exists():
        return image
    root = image.disk.with_suffix(".root")
    configuration = root / "etc/initramfs-tools"
    make_debian(
        root,
        _PACKAGES,
        "bookworm",
        "--variant=minbase",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(f"--dpkgopt=path-include={pattern}" for pattern in _PUT_IN),
        # Before the kernel is configured, which makes the initial file system.
        '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d"',
        '--essential-hook=echo MODULES=list > "$1/etc/initramfs-tools/conf.d/edged"',
        f'--essential-hook=printf "%s\\n" {_INITRD_MODULES} > "$1/etc/initramfs-tools/modules"',
    )
    assert configuration.exists()
    (root / "etc/hostname").write_text("appliance\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/systemd/network/10-en.network").write_text(_NETWORK)
    units = root / "etc/systemd/system"
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    wanted = units / "multi-user.target.wants"
    (wanted / "systemd-networkd.service").unlink(missing_ok=True)
    (wanted / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    for made, name in ((image.kernel, "vmlinuz"), (image.initrd, "initrd.img")):
        shutil.copy(next((root / "boot").glob(f"{name}-*")), made)
    disk = image.disk.with_suffix(".new")
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "root", "-d", root, disk], check=True)
    disk.rename(image.disk)
    shutil.rmtree(root)
    return image


def _image() -> Debian:
    name = f"debian-{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}"
    return Debian(*(FOLDER / f"{name}.{part}" for part in ("disk", "kernel", "initrd")))
