"""A Debian of its own that systemd boots, with nothing in it yet of edged.

It is made once with mmdebstrap (EDGED_TEST_ROOT, or build/systemd/SUITE), and used through an
overlay that is thrown away. Where this cannot be done, the tests are skipped and say why.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines.debian import SUITES, make_debian, release

PROJECT = Path(__file__).parent.parent.parent
PACKAGES = (
    "bash-completion ca-certificates dbus kmod libseccomp2 libsystemd0 man-db procps python3"
    " systemd systemd-sysv udev zsh"
)
# systemd-nspawn of Debian 12 does not let them pass by itself; a machine does.
LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
ROWS: list[tuple[str, str]] = []
BEGIN, END = "<!-- tried -->", "<!-- seen -->"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("systemd")
    group.addoption(
        "--debian", type=int, choices=sorted(SUITES), default=release(), help="the release to boot"
    )
    group.addoption(
        "--systemd-write", type=Path, help="where to keep the table, such as docs/systemd.md"
    )


class Machine:
    """A system in a container, with systemd as its first process.

    Args:
        folder: its root.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder.parent / "console"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0

    def boot(self) -> None:
        command = ["systemd-nspawn", f"--directory={self.folder}", "--boot", "--register=no"]
        command += ["--keep-unit", "--private-network", f"--system-call-filter={LANDLOCK}"]
        command += ["--machine=edged-test"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")

        def booted() -> bool:
            if self._nspawn is None or self._nspawn.poll() is not None:
                pytest.fail(f"the machine does not boot: {self._log.read_text(errors='replace')}")
            found = children.read_text().split()
            self.leader = int(found[0]) if found else 0
            return bool(found) and self.ask("systemctl", "is-system-running") == "running"

        self.eventually(booted, "the machine to boot", 60)

    def power_off(self) -> None:
        if self._nspawn is None:
            return
        self._nspawn.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nspawn.wait(90)
        if self._nspawn.poll() is None:
            self._nspawn.kill()
            self._nspawn.wait()

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the machine, as root, to its end."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "TERM": "dumb"},
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done

    def ask(self, *words: str) -> str:
        """What a command says, whatever its exit status."""
        return self.run(*words, check=False).stdout.strip()

    def show(self, key: str, unit: str = "edged.service") -> str:
        return self.ask("systemctl", "show", "--value", "-p", key, unit)

    def path(self, inside: str) -> Path:
        """Where a path of the machine is to be found from here, its own file systems too."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def journal(self, *words: str) -> str:
        return self.ask("journalctl", "--no-pager", *words)

    def eventually(
        self, condition: Callable[[], bool], what: str, patience: float = 120.0
    ) -> float:
        """Wait for something in there; returns the seconds that it took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > patience:
                said = self.journal("-n", "60") if self.leader else ""
                pytest.fail(f"waited {patience:.0f} s for {what}\n{said}")
            time.sleep(0.05)
        return time.monotonic() - began


@pytest.fixture(scope="session")
def package(request: pytest.FixtureRequest) -> Path:
    """The newest package that was built for the release."""
    built = os.environ.get("EDGED_TEST_PACKAGE")
    number = request.config.getoption("--debian")
    pattern = f"edged_*~deb{number}u*.deb"
    found = [Path(built)] if built else list((PROJECT / "build").glob(pattern))
    if not found:
        pytest.skip(f"there is no build/{pattern}; `make deb RELEASE={number}` builds it")
    return max(found, key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="session")
def base(request: pytest.FixtureRequest) -> Path:
    """A Debian with systemd and nothing else of note."""
    missing = [
        program
        for program in ("mmdebstrap", "systemd-nspawn", "nsenter", "dpkg-deb")
        if shutil.which(program) is None
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not there (Debian: mmdebstrap, systemd-container)")
    if os.geteuid():
        pytest.skip("only root can boot a machine")
    suite = SUITES[request.config.getoption("--debian")]
    root = Path(os.environ.get("EDGED_TEST_ROOT", PROJECT / "build" / "systemd" / suite))
    make_debian(root, PACKAGES.split(), suite, "--variant=minbase")
    return root


@pytest.fixture(scope="module")
def machine(base: Path) -> Iterator[Machine]:
    """A fresh one, running."""
    folder = Path(tempfile.mkdtemp(prefix="machine-", dir=base.parent))
    root = folder / "root"
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    (folder / "upper").chmod(0o755)
    layers = f"lowerdir={base},upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
    machine = Machine(root)
    try:
        machine.boot()
        yield machine
    finally:
        machine.power_off()
        subprocess.run(["umount", str(root)], check=True)
        shutil.rmtree(folder)


@pytest.fixture
def report() -> Callable[[str, str], None]:
    """Adds a line to the table at the end: what was tried, and what was seen."""
    return lambda what, found: ROWS.append((what, found))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if not ROWS:
        return
    width = max(len(what) for what, _ in ROWS)
    terminalreporter.section("the appliance on systemd")
    for what, found in ROWS:
        terminalreporter.write_line(f"{what:{width}}  {found}")
    page = config.getoption("--systemd-write", None)
    if page and exitstatus == pytest.ExitCode.OK:
        table = [
            "| tried | seen |",
            "|---|---|",
            *(f"| {what} | {found} |" for what, found in ROWS),
        ]
        new = "\n".join((BEGIN, "", *table, "", END))
        page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: new, page.read_text(), flags=re.DOTALL))
