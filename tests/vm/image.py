"""What a virtual machine is made of: QEMU in a folder of its own, and a Debian as a disk image.

Both are made once and kept in build/vm (or EDGED_VM_FOLDER). Making images takes root.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from machines.debian import make_debian, mirror

__all__ = ["Debian", "Qemu", "debian", "installed", "missing", "qemu"]

PROJECT = Path(__file__).parent.parent.parent
FOLDER = Path(os.environ.get("EDGED_VM_FOLDER", PROJECT / "build" / "vm"))
DISK_BYTES = 4 << 30

_PACKAGES = (
    *("linux-image-amd64", "qemu-guest-agent", "systemd-sysv", "udev", "pciutils", "iproute2"),
    *("python3", "libseccomp2", "libsystemd0", "procps", "kmod", "busybox-static", "cpio"),
)
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
# What of the distribution's own takes seconds of each boot here, and is of no use: nobody logs in,
# updates it, or looks for disks.
_MASKED = (
    *("getty.target", "getty@tty1.service", "serial-getty@ttyS0.service", "e2scrub_reap.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("fstrim.timer", "systemd-binfmt.service", "systemd-update-utmp.service"),
    *("systemd-update-utmp-runlevel.service", "proc-sys-fs-binfmt_misc.automount"),
    *("systemd-random-seed.service", "systemd-pcrphase.service", "systemd-logind.service"),
    *("systemd-pcrphase-sysinit.service", "systemd-user-sessions.service"),
    *(f"modprobe@{name}.service" for name in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse")),
    *("modprobe@loop.service", "dev-hugepages.mount", "dev-mqueue.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount"),
    *("sys-fs-fuse-connections.mount", "systemd-journal-flush.service"),
)
_NETWORK = """\
SUBSYSTEM=="net", ACTION=="add", ENV{ID_NET_DRIVER}=="virtio_net", \
    RUN+="/sbin/ip address add 10.0.2.15/24 dev $name", RUN+="/sbin/ip link set $name up"
"""
# Debian's own initial file system looks for disks of all kinds, which takes longer than the rest.
_INITRD = """\
set -e
kernel=$(ls /lib/modules)
rm -rf /initrd
mkdir -p /initrd/dev /initrd/root /initrd/modules
cp /bin/busybox /initrd/
{
    echo '#!/busybox sh'
    echo '/busybox mount -t devtmpfs none /dev'
    for module in virtio_pci virtio_blk crc32c_generic ext4; do
        modprobe --set-version "$kernel" --show-depends "$module" | while read -r _ path; do
            cp "$path" /initrd/modules/
            echo "/busybox insmod /modules/${path##*/} 2>/dev/null"
        done
    done
    echo 'until /busybox mount -t ext4 /dev/vda /root 2>/dev/null; do :; done'
    echo 'exec /busybox switch_root /root /sbin/init'
} >/initrd/init
chmod 755 /initrd/init
cd /initrd
find . | cpio --quiet -o -H newc >/boot/initrd
rm -rf /initrd
"""
# In a mount namespace of its own: whatever happens, nothing stays mounted.
_INSTALL = """\
set -e
mount -o loop "$1" "$4"
mount -t proc proc "$4/proc"
mount --rbind /dev "$4/dev"
cp "$2" "$4/var/tmp/edged.deb"
mkdir -p "$4/etc/edged/edged.toml.d"
cp "$3" "$4/etc/edged/edged.toml.d/50-vm.toml"
chroot "$4" dpkg --install /var/tmp/edged.deb >&2
rm "$4/var/tmp/edged.deb"
umount --recursive "$4"
"""
_RECIPE = "\n".join((*_PACKAGES, *_LEFT_OUT, *_PUT_IN, *_MASKED, _NETWORK, _INITRD, "vmlinux"))


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
    """What keeps these from being made here; empty when they can be."""
    programs = [
        name for name in ("mmdebstrap", "mkfs.ext4", "apt-get") if shutil.which(name) is None
    ]
    if programs:
        return f"{', '.join(programs)} not there (Debian: mmdebstrap e2fsprogs)"
    return "only root can make disk images" if os.geteuid() else ""


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
    make_debian(
        root,
        _PACKAGES,
        "bookworm",
        "--variant=minbase",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(f"--dpkgopt=path-include={pattern}" for pattern in _PUT_IN),
        # Before the kernel is configured: an initial file system that nobody uses, but a small one.
        '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d"',
        '--essential-hook=echo MODULES=list > "$1/etc/initramfs-tools/conf.d/edged"',
    )
    subprocess.run(["chroot", root, "sh"], input=_INITRD, text=True, check=True)
    (root / "etc/hostname").write_text("appliance\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/udev/rules.d/99-network.rules").write_text(_NETWORK)
    # The journal of a machine whose power is cut is of no use, and costs.
    shutil.rmtree(root / "var/log/journal", ignore_errors=True)
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    compressed = next((root / "boot").glob("vmlinuz-*")).read_bytes()
    image.kernel.write_bytes(_unpacked(compressed))
    shutil.copy(root / "boot/initrd", image.initrd)
    disk = image.disk.with_suffix(".new")
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "root", "-d", root, disk], check=True)
    disk.rename(image.disk)
    shutil.rmtree(root)
    return image


def _unpacked(kernel: bytes) -> bytes:
    """The ELF file in a bzImage, which QEMU starts at its PVH entry.

    To unpack itself takes the kernel a third of a boot in there, and a second here. Where it is:
    Documentation/arch/x86/boot.rst of Linux, ``setup_sects``, ``payload_offset`` and
    ``payload_length``.
    """
    (setup_sectors,) = struct.unpack_from("<B", kernel, 0x1F1)
    offset, length = struct.unpack_from("<II", kernel, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The last four bytes are the size of what comes out.
    return lzma.decompress(kernel[start : start + length - 4], lzma.FORMAT_XZ)


def installed(package: Path, configuration: str, folder: Path) -> Debian:
    """That Debian with edged installed in it and not started yet; the disk is in *folder*.

    dpkg runs here, in the disk, in half a minute: in the machine it would take ten times that.

    Raises:
        subprocess.CalledProcessError: dpkg said why on standard error.
    """
    bare = debian()
    disk, settings, root = (folder / name for name in ("edged.disk", "50-vm.toml", "root"))
    root.mkdir(exist_ok=True)
    settings.write_text(configuration)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", bare.disk, disk], check=True)
    install = ["unshare", "--mount", "sh", "-c", _INSTALL, "sh", disk, package, settings, root]
    subprocess.run(install, check=True)
    return Debian(disk, bare.kernel, bare.initrd)


def _image() -> Debian:
    name = f"debian-{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}"
    return Debian(*(FOLDER / f"{name}.{part}" for part in ("disk", "kernel", "initrd")))
