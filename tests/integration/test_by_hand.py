"""What README says to type where there is no package: the commands, as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from integration.appliance import eventually

ROOT = Path(__file__).parents[2]
COMMANDS = re.search(r"By hand:\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def alone_on_the_network() -> list[str]:
    """Words before a command that give it ports of its own, or none where that is not possible."""
    words = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"']
    words.append("by-hand")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return []
    done = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if done.returncode == 0 else []


@pytest.fixture(params=["as a user", "as root"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A home, and the environment there: root's has no folder for sockets."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"HOME": str(tmp_path), "PATH": path, "NO_COLOR": "1"}
    if request.param == "as a user":
        (tmp_path / "run").mkdir()
        environment["XDG_RUNTIME_DIR"] = str(tmp_path / "run")
    return tmp_path, environment


def test_serves(home: tuple[Path, dict[str, str]], kws: Path) -> None:
    if not (words := alone_on_the_network()):
        pytest.skip("no network namespace can be made here: the default ports may be taken")
    assert COMMANDS is not None
    commands = COMMANDS[1]
    assert "edged-emulator" in commands and "\nedged " in commands
    folder, environment = home
    drop = folder / ".local" / "state" / "edged" / "drop"
    log = folder / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            [*words, "bash", "-c", f"{commands}\nwait"],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(drop.is_dir, f"the drop folder\n{log.read_text()}")
        shutil.copy(kws, drop / "kws.edgemodel")
        status = drop / "kws.edgemodel.status.txt"
        eventually(
            lambda: status.exists() and status.read_text().startswith("serving since"),
            "the model to serve",
        )
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait()
        print(log.read_text())  # noqa: T201  (for who looks into a failure)
