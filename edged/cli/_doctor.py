"""``edgectl doctor``: looks for the usual troubles, and says what to do about each."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import grp
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import typer
from rich.markup import escape

import edged
from edged import sandbox
from edged.cli._control import Daemon, configuration
from edged.cli._options import ConfigOption, JsonOption
from edged.cli._output import print_json, stdout
from edged.config import Address, Config, DeviceUse, IommuUse
from edged.discovery import VFIO_DRIVER, Survey, survey
from edged.errors import ConfigError, EdgedError, InputError, SandboxError
from edged.management import DeviceReport, Status

DOCTOR_EXAMPLES = "edgectl doctor · edgectl doctor --json · edgectl doctor --config ./edged.toml"

_FOUND_TROUBLE: Final = 1
_MiB: Final = 1 << 20
_SPACE_FAIL, _SPACE_WARN = 100 * _MiB, 2048 * _MiB
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs")
_CLOCK_SECONDS: Final = 60
_SET_CLOCK: Final = "`sudo timedatectl set-ntp true`, or set the time"
_TIME_ERROR: Final = 5


class Verdict(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found.

    Attributes:
        subject: what was looked at.
        text: what was found.
        cure: what to do; empty where all is well.
    """

    subject: str
    verdict: Verdict
    text: str
    cure: str = ""


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for the usual troubles: configuration, daemon, device, folders, disk, sandbox, ports.

    Changes nothing. Exit status 1 when something does not work.
    """
    found = list(_examine(config))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        _print(found)
    if any(finding.verdict is Verdict.FAIL for finding in found):
        raise typer.Exit(_FOUND_TROUBLE)


def _print(found: list[Finding]) -> None:
    colours = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
    for finding in found:
        mark = f"[{colours[finding.verdict]}]{finding.verdict:4}[/]"
        stdout().print(f"{mark}  {finding.subject}: {escape(finding.text)}")
        if finding.cure:
            stdout().print(f"      → {escape(finding.cure)}")


def _examine(path: Path | None) -> Iterator[Finding]:
    try:
        config = configuration(path)
    except ConfigError as error:
        yield Finding(
            "configuration", Verdict.FAIL, str(error), "mend it; `edgectl config check` reads it"
        )
        return
    yield Finding("configuration", Verdict.OK, f"state in {config.state.directory}")
    status, finding = _daemon(config)
    yield finding
    looks: tuple[Callable[[Config, Status | None], Finding], ...] = (
        _device,
        lambda config, _status: about_cards(
            survey(needs_iommu=config.device.iommu is IommuUse.REQUIRED)
        ),
        lambda config, _status: about_drop_folder(config),
        _disk,
        _memory,
        _sandbox,
        _ports,
        lambda config, _status: about_clock(config),
    )
    for look in looks:
        yield look(config, status)
    for drop in status.waiting if status is not None else ():
        yield Finding(
            "drop folder",
            Verdict.FAIL,
            f"{drop.name} waits: {drop.reason}",
            f"it is tried again in {drop.seconds:.0f} s: once that is mended, leave it there",
        )
    for problem in status.store_problems if status is not None else ():
        yield Finding("store", Verdict.WARN, problem, "see `journalctl -u edged`")


def _daemon(config: Config) -> tuple[Status | None, Finding]:
    try:
        status = Daemon(config.console.socket).get("/v1/status", Status)
    except InputError as error:
        cure = "use sudo, or have an administrator put you into the group of the socket"
        return None, Finding("daemon", Verdict.FAIL, str(error), cure)
    except EdgedError as error:
        cure = "`systemctl start edged`, and `journalctl -u edged -n 50` for why it is not up"
        return None, Finding("daemon", Verdict.FAIL, str(error), cure)
    if status.problem:
        verdict = Verdict.WARN if status.state == "no model loaded" else Verdict.FAIL
        return status, Finding(
            "daemon", verdict, f"{status.state}: {status.problem}", "see the lines below"
        )
    return status, Finding("daemon", Verdict.OK, f"edged {status.version}, {status.state}")


def _device(config: Config, status: Status | None) -> Finding:
    if status is not None:
        report = Daemon(config.console.socket).get("/v1/device", DeviceReport)
        if report.present:
            return Finding("device", Verdict.OK, f"{report.kind}, {report.state}")
    use, card, emulator = config.device.use, config.device.card_socket, config.device.socket
    ways = {
        "edged-card": card if use is not DeviceUse.EMULATOR else None,
        "edged-emulator": emulator if use is not DeviceUse.CARD else None,
    }
    troubles = []
    for unit, path in ways.items():
        if path is not None:
            trouble = _silence(path)
            if not trouble:
                return Finding("device", Verdict.OK, f"{unit} answers at {path}")
            troubles.append((trouble, f"`systemctl start {unit}`"))
    return Finding(
        "device",
        Verdict.FAIL,
        "; ".join(trouble for trouble, _ in troubles),
        f"{' or '.join(cure for _, cure in troubles)}; device.use says which of them is used",
    )


def _silence(path: Path) -> str:
    """Why no device is to be reached at a socket; empty if one is."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except PermissionError:
            return f"{path} is not for this user to open"
        except OSError as error:
            return f"nobody answers at {path}: {error.strerror or error}"
    return ""


def about_cards(found: Survey) -> Finding:
    """What is to be said of the cards that there are."""
    if not found.cards:
        return Finding("PCIe", Verdict.OK, "no card that could be ours: an emulator is the device")
    shown = "; ".join(f"{card}, driver {card.driver or 'none'}" for card in found.cards)
    if found.missing:
        parts = [sentence.partition("; ") for sentence in found.missing]
        what = "; ".join(part[0] for part in parts)
        cure = "; ".join(part[2] for part in parts if part[2]) or "put the card into another slot"
        return Finding("PCIe", Verdict.WARN, f"{shown}: {what}", cure)
    for card in found.cards:
        if card.is_taken:
            cure = f"`driverctl set-override {card.address} {VFIO_DRIVER}`, if it is edged's"
            return Finding("PCIe", Verdict.WARN, f"{shown}: another driver has it", cure)
        if card.iommu_group is None:
            what = "device.iommu is optional, and this card can read and write all memory"
            cure = "switch VT-d or AMD-Vi on in the firmware, and boot with intel_iommu=on"
            return Finding("PCIe", Verdict.WARN, f"{shown}: {what}", cure)
    return Finding("PCIe", Verdict.OK, f"{shown}, with an IOMMU")


def about_drop_folder(config: Config) -> Finding:
    """Whether people can drop models, and edged read them."""
    folder = config.drop.directory
    if not folder.is_dir():
        return Finding(
            "drop folder",
            Verdict.FAIL,
            f"there is no folder {folder}",
            "edged makes it when it starts; make it, or set drop.directory",
        )
    found = folder.stat()
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "drop folder",
            Verdict.WARN,
            f"{folder} is not for this user to write into",
            f"`sudo usermod -aG {_group(found.st_gid)} $USER`, and log in anew",
        )
    if found.st_mode & stat.S_IWGRP and not found.st_mode & stat.S_ISGID:
        return Finding(
            "drop folder",
            Verdict.WARN,
            f"what people copy into {folder} belongs to groups of their own, and edged may not be"
            " allowed to read it",
            f"`sudo chmod g+s {folder}`",
        )
    kind = _file_system(folder)
    if kind in _REMOTE or kind.startswith("fuse"):
        return Finding(
            "drop folder",
            Verdict.WARN,
            f"{folder} is on {kind}, which does not announce what others write",
            f"nothing, if it is enough to look every {config.drop.rescan_seconds:g} s"
            " (drop.rescan_seconds)",
        )
    return Finding("drop folder", Verdict.OK, f"{folder}, on {kind}")


def _disk(config: Config, _status: Status | None) -> Finding:
    folders = {"state": config.state.directory, "the drop folder": config.drop.directory}
    free = {what: shutil.disk_usage(_nearest(folder)).free for what, folder in folders.items()}
    found = ", ".join(f"{size // _MiB:,} MiB free for {what}" for what, size in free.items())
    least = min(free.values())
    if least >= _SPACE_WARN:
        return Finding("disk", Verdict.OK, found)
    verdict = Verdict.WARN if least >= _SPACE_FAIL else Verdict.FAIL
    cure = (
        "`edgectl remove` what is not needed, lower state.keep_bundles, and empty rejected/ in the"
        " drop folder"
    )
    return Finding("disk", verdict, found, cure)


def _memory(config: Config, _status: Status | None) -> Finding:
    sizes = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    total = int(sizes["MemTotal"].split()[0]) << 10
    # While one model is replaced by another, there are two containers; and perhaps a compiler.
    most = 2 * config.container.memory_bytes + config.compiler.memory_bytes
    found = f"{total // _MiB:,} MiB; containers and compiler may take {most // _MiB:,} MiB"
    if most <= total:
        return Finding("memory", Verdict.OK, found)
    cure = "lower container.memory_bytes or compiler.memory_bytes, or they may end for want of it"
    return Finding("memory", Verdict.WARN, found, cure)


def _sandbox(config: Config, _status: Status | None) -> Finding:
    try:
        offer = sandbox.available()
    except SandboxError as error:
        return Finding("sandbox", Verdict.FAIL, str(error), "install what it names")
    if offer.bubblewrap is not None and config.container.sandbox.value == "bubblewrap":
        return Finding(
            "sandbox", Verdict.FAIL, str(offer), "install bubblewrap, or set container.sandbox"
        )
    return Finding("sandbox", Verdict.OK, str(offer))


def _ports(config: Config, status: Status | None) -> Finding:
    listens = {
        "serving.listen": config.serving.listen,
        "serving.http_listen": config.serving.http_listen,
        "metrics.listen": config.metrics.listen,
    }
    shown = " and ".join(map(str, listens.values()))
    if status is not None:
        return Finding("port", Verdict.OK, f"edged listens on {shown}")
    for key, address in listens.items():
        if (trouble := _trouble(address)) is not None:
            text, cure = trouble
            return Finding("port", Verdict.FAIL, text, f"{cure} {key}")
    return Finding("port", Verdict.OK, f"free: {shown}")


def _trouble(address: Address) -> tuple[str, str] | None:
    """Why nobody can listen there, and what to do about it but for the key to set."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"{address}: {error.strerror}", "use an address of this machine in"
            return (
                f"{address} is taken",
                f"`ss -ltnp sport = :{address.port}` says by whom: edged itself, if this user may"
                " only not ask it; else stop that one, or set",
            )
    return None


def about_clock(config: Config) -> Finding:
    """Whether the time is right, as far as this machine can tell."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    program = Path(edged.__file__)
    for path in (program, config.state.directory, config.drop.directory):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > now + _CLOCK_SECONDS:
                text = f"it is {shown}, but {path} was changed later than that"
                return Finding("clock", Verdict.FAIL, text, f"{_SET_CLOCK}; history depends on it")
    if not _synchronised():
        return Finding(
            "clock", Verdict.WARN, f"{shown}, and nothing keeps it right", f"{_SET_CLOCK}"
        )
    return Finding("clock", Verdict.OK, f"{shown}, synchronised")


def _synchronised() -> bool:
    """Whether the kernel's clock is kept by NTP or the like: adjtimex(2)."""
    # struct timex has 208 bytes; its first word says what to set: nothing.
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))) != _TIME_ERROR


def _file_system(path: Path) -> str:
    """The kind of file system that *path* is on, after proc_pid_mountinfo(5)."""
    best, kind = -1, "an unknown file system"
    wanted = os.fspath(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        inside = wanted == mount or wanted.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:
            best, kind = len(mount), right.split()[0]
    return kind


def _nearest(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
