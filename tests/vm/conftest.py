"""One machine for all the tests, with the package to install beside it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from vm import bundles, image
from vm.client import Client
from vm.machine import Emulator, Machine
from vm.powercut import Lost
from vm.table import Row, Table

TABLE = Table()
# It serves a network, and its container may take its time where all takes long.
CONFIGURATION = '[serving]\nlisten = "0.0.0.0:50051"\n[container]\nstart_seconds = 300.0\n'


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vm")
    group.addoption("--vm-seed", type=int, default=1, help="of the moments of power cuts")
    group.addoption("--vm-cuts", type=int, default=20, help="how many power cuts")
    group.addoption("--vm-machines", type=int, default=2, help="1 or 2, which share the cuts")
    group.addoption("--vm-write", type=Path, help="where to keep the table, such as docs/vm.md")
    group.addoption("--vm-folder", type=Path, help="keep the machine there, or go on with it")


@dataclass
class Appliance:
    """The machine, the card in it, and a client outside.

    Attributes:
        share: what is in it is at /mnt/share in the machine.
        answers: what each model has answered so far.
    """

    machine: Machine
    card: Emulator
    client: Client
    share: Path
    answers: dict[str, bytes]

    def power_on(self) -> float:
        """The card and the machine; returns the seconds until it takes commands."""
        self.card.power_on()
        return self.machine.boot()

    def cut_power(self, chance: random.Random | None = None) -> Lost:
        """Of both, at once, as one cord feeds them; see :meth:`Machine.cut_power`."""
        lost = self.machine.cut_power(chance)
        self.card.power_off()
        return lost

    def serves(self, *models: str, patience: float = 300) -> tuple[str, float]:
        """Wait until one of *models* answers as it always did; which, and after how long."""
        seen = ["", b""]

        def answered() -> bool:
            seen[:] = self.client.serving()
            return seen[0] in models

        took = self.machine.eventually(answered, f"{' or '.join(models)} to serve", patience)
        model, values = str(seen[0]), bytes(seen[1])
        assert self.answers.setdefault(model, values) == values, f"{model} answers otherwise"
        return model, took


@pytest.fixture(scope="session")
def package() -> Path:
    """The newest package that was built for the release in the machine."""
    built = os.environ.get("EDGED_TEST_PACKAGE")
    found = [Path(built)] if built else list((image.PROJECT / "build").glob("edged_*~deb12u*.deb"))
    if not found:
        pytest.skip("there is no package; `make deb RELEASE=12` builds it")
    return max(found, key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="session")
def appliance(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, package: Path
) -> Iterator[Appliance]:
    """Switched off, with edged installed, which has never run."""
    if problem := image.missing():
        pytest.skip(problem)
    folder = request.config.getoption("--vm-folder") or tmp_path_factory.mktemp("vm")
    share = folder / "share"
    share.mkdir(parents=True, exist_ok=True)
    for make in (bundles.kws, bundles.mobilenet):
        make(share)
    card = Emulator(folder)
    debian = image.installed(package, CONFIGURATION, folder)
    machine = Machine(folder, image.qemu(), debian, card.socket, shares={"share": share})
    client = Client(machine.port)
    made = Appliance(machine, card, client, share, {})
    try:
        yield made
    finally:
        client.close()
        made.cut_power()


@pytest.fixture
def twin(appliance: Appliance) -> Iterator[Appliance]:
    """A second one, off, whose disk is a copy of the first one's, which is off as well then."""
    appliance.cut_power()
    folder = appliance.machine.folder / "twin"
    folder.mkdir(exist_ok=True)
    (folder / "disk.raw").unlink(missing_ok=True)
    card = Emulator(folder)
    bare = image.debian()
    disk = image.Debian(appliance.machine.folder / "disk.raw", bare.kernel, bare.initrd)
    machine = Machine(folder, image.qemu(), disk, card.socket, shares={"share": appliance.share})
    client = Client(machine.port)
    made = Appliance(machine, card, client, appliance.share, appliance.answers)
    try:
        yield made
    finally:
        client.close()
        made.cut_power()


@pytest.fixture
def report() -> Callable[..., None]:
    """Adds a line to the table at the end: the case, what was done, what was seen, seconds."""
    return lambda *cells: TABLE.rows.append(Row(*cells))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if TABLE.rows:
        terminalreporter.section("the appliance as a machine")
        for line in TABLE.lines():
            terminalreporter.write_line(line)
        written = config.getoption("--vm-write", None)
        if written and exitstatus == pytest.ExitCode.OK:
            TABLE.write(written)
