"""A drop folder that is shared, an edged that looks after it, and the table at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from integration.appliance import DATA, Appliance, pack
from shares.servers import Nfs, Samba, SambaOwnFiles, Share

ROWS: list[tuple[str, str]] = []
SHARES = {"Samba": Samba, "Samba, files of their own": SambaOwnFiles, "NFS": Nfs}


class Unprivileged(Appliance):
    """Has no CAP_LEASE, as under systemd: whether a file of others is written it cannot tell."""

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--bounding-set=-lease", sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@dataclass
class Shared:
    """A share, and the appliance behind it."""

    kind: str
    share: Share
    appliance: Appliance

    def report(self, what: str, found: str) -> None:
        """Add a line to the table at the end."""
        ROWS.append((f"{self.kind}: {what}", found))


@pytest.fixture(scope="module", params=list(SHARES))
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    kind = SHARES[request.param]
    kind.skip_where_it_cannot_be()
    # pytest's own folders are closed to others, and long for a socket.
    with tempfile.TemporaryDirectory(prefix="edged-share-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        share, appliance = kind(folder), Unprivileged(folder)
        share.drop.mkdir()
        share.drop.chmod(0o2777)
        try:
            share.start()
            appliance.start_emulator()
            appliance.start_daemon()
            yield Shared(request.param, share, appliance)
        finally:
            appliance.close()
            share.stop()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes bundles by name: 4 MB, so that a copy takes many writes, and soon compiled."""
    folder = tmp_path_factory.mktemp("bundles")
    model = onnx.load(DATA / "models" / "kws_dscnn.onnx")
    entry = model.metadata_props.add()
    entry.key, entry.value = "padding", "x" * 4_000_000
    onnx.save(model, folder / "model.onnx")

    def make(name: str) -> Path:
        path = folder / f"{name}-1.0.0.edgemodel"
        return path if path.exists() else pack(path, str(folder / "model.onnx"), name)

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        width = max(len(what) for what, _ in ROWS)
        terminalreporter.section("the drop folder as a share")
        for what, found in ROWS:
            terminalreporter.write_line(f"{what:{width}}  {found}")
