"""The emulator as a process: how it starts and ends, and what it leaves alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from edged.emulator.__main__ import main

RUN_A_SESSION = """
from edged.emulator import exact_weight_encodings
exact_weight_encodings()
"""
BAD_START = 78


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "edged.emulator", "--socket", os.fspath(path), *options]


def spawn(argv: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status, and what it said on standard error."""
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "npu.sock"


@pytest.fixture
def serving(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = spawn(command(path), OPENBLAS_NUM_THREADS="2")  # threads that block no signals
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"ready: {path}: array 16x32x4")
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(
    serving: subprocess.Popen[str], path: Path, number: signal.Signals
) -> None:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(os.fspath(path))
    serving.send_signal(number)
    assert finish(serving) == (0, "")
    assert not path.exists()
    assert client.recv(1) == b""
    client.close()


def test_the_socket_is_for_its_owner_alone(serving: subprocess.Popen[str], path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_one_leaves_the_first_alone(
    serving: subprocess.Popen[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", os.fspath(path)]) == BAD_START
    errors = capsys.readouterr().err
    assert "cannot listen on" in errors and "another process serves there already" in errors
    assert path.exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(os.fspath(path))


def test_a_stale_socket_is_replaced(serving: subprocess.Popen[str], path: Path) -> None:
    serving.kill()
    finish(serving)
    assert path.exists()
    second = spawn(command(path))
    assert second.stdout is not None and second.stdout.readline().startswith("ready")
    second.terminate()
    assert finish(second)[0] == 0


def test_a_file_in_its_place_is_kept(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("precious")
    assert main(["--socket", os.fspath(path)]) == BAD_START
    assert "something else stands there" in capsys.readouterr().err
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--array", "16x32"], "'16x32' is no array (try '16x32x4')"),
        (["--array", "0x1x1"], "'0x1x1' is no array"),
        (["--dram", "lots"], "'lots' is no number from 16 to"),
        (["--threads", "0"], "'0' is no number from 1 to"),
        (["--pace", "slow"], "choose from"),
    ],
)
def test_bad_options_show_good_ones(
    path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--socket", os.fspath(path), *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_path_that_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", os.fspath(tmp_path / ("x" * 120))]) == BAD_START
    assert "at most 107 bytes" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for option in ("--socket", "--pace", "--array", "--dram", "--threads", "--verbose"):
        assert option in shown


def traced(argv: list[str], log: Path, home: Path) -> subprocess.Popen[str]:
    calls = "socket,connect,openat,open,creat,rename,renameat2,mkdir,mkdirat,symlinkat,linkat"
    # -D: the traced process stays our child, so that signals reach it.
    tracer = ["strace", "-D", "-f", "-o", os.fspath(log), "-e", f"trace={calls}"]
    return spawn(
        [*tracer, *argv],
        HOME=os.fspath(home),
        XDG_CACHE_HOME=os.fspath(home),
        TMPDIR=os.fspath(home),
        PYTHONDONTWRITEBYTECODE="1",
    )


def trace_of(process: subprocess.Popen[str], log: Path) -> str:
    """The whole trace, once the tracer has written its end."""
    ended = f"{process.pid} "
    deadline = time.monotonic() + PATIENCE
    while True:
        text = log.read_text()
        if re.search(rf"^{ended}\s*\+\+\+ (exited|killed)", text, re.MULTILINE):
            return text
        assert time.monotonic() < deadline, "strace did not finish"
        time.sleep(0.01)


def wrongs(trace: str, allowed: Path) -> list[str]:
    """Calls that write a file or reach for a network."""
    found = []
    for line in trace.splitlines():
        if "= -1 " in line or "+++" in line or "---" in line:
            continue
        inet = re.search(r"socket\((?!AF_UNIX)|connect\(", line)
        writes = re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(|rename|mkdir|symlink|linkat", line)
        harmless = '"/dev/' in line or os.fspath(allowed) in line
        if inet or (writes and not harmless):
            found.append(line)
    return found


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")


@pytest.mark.usefixtures("strace")
def test_the_emulator_writes_no_file_and_reaches_no_network(tmp_path: Path, path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = traced(command(path), tmp_path / "trace", home)
    assert process.stdout is not None and process.stdout.readline().startswith("ready")
    process.terminate()
    assert finish(process) == (0, "")
    trace = trace_of(process, tmp_path / "trace")
    assert "onnxruntime" in trace
    assert wrongs(trace, path) == []
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("strace")
def test_onnx_runtime_is_silenced_wherever_it_is_imported(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = traced([sys.executable, "-c", RUN_A_SESSION], tmp_path / "trace", home)
    assert finish(process) == (0, "")
    assert wrongs(trace_of(process, tmp_path / "trace"), home / "nothing") == []
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("strace")
def test_the_tracer_would_notice(tmp_path: Path) -> None:
    """The check itself: a process that does both is found out."""
    code = "import pathlib, socket; pathlib.Path.home().joinpath('id').write_text('x')\n"
    code += "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()"
    process = traced([sys.executable, "-c", code], tmp_path / "trace", tmp_path)
    assert finish(process) == (0, "")
    assert len(wrongs(trace_of(process, tmp_path / "trace"), tmp_path / "nothing")) == 2
