"""Real confined processes that try to get out, with bubblewrap and without."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edged import sandbox
from edged.errors import SandboxError
from edged.sandbox import Confinement

MiB = 1 << 20
DATA = Path(__file__).parents[1] / "data"

PROLOGUE = """
import ctypes, errno, json, os, pathlib, signal, socket, subprocess, sys, threading
from edged import errors, sandbox
folder, writable, memory = sys.argv[1:4]
confinement = sandbox.Confinement(
    (pathlib.Path(folder),),
    (pathlib.Path(writable),) if writable else (),
    memory_bytes=int(memory) or None,
    file_bytes=1 << 20,
)
score = open("/proc/self/oom_score_adj")
in_force = sandbox.lock_down(confinement)
def attempt(what, *arguments, **options):
    try:
        return repr(what(*arguments, **options))
    except (OSError, MemoryError, ValueError, errors.EdgedError) as error:
        return type(error).__name__
def tell(**facts):
    print(json.dumps(facts), flush=True)
"""

Confined = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["auto", "never"])
def confined(request: pytest.FixtureRequest, tmp_path: Path) -> Confined:
    """Runs a piece of Python that has locked itself down."""
    readable = tmp_path / "readable"
    readable.mkdir()
    (readable / "model").write_text("weights")

    def run(
        code: str,
        *,
        writable: Path | None = None,
        memory: int = 0,
        pass_fds: tuple[int, ...] = (),
        way: str = request.param,
    ) -> subprocess.CompletedProcess[str]:
        script = PROLOGUE + textwrap.dedent(code)
        argv = [sys.executable, "-c", script, str(readable), str(writable or ""), str(memory)]
        confinement = Confinement((readable,), (writable,) if writable else ())
        return subprocess.run(
            sandbox.command(argv, confinement, pass_fds, bubblewrap=way),
            capture_output=True,
            text=True,
            timeout=60,
            pass_fds=pass_fds,
            env={"SECRET": "of the daemon"},
            check=False,
        )

    if request.param == "auto" and sandbox.available().bubblewrap is not None:
        pytest.skip(f"needs bubblewrap: {sandbox.available()}")
    return run


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def ended_by(done: subprocess.CompletedProcess[str], number: int) -> bool:
    return done.returncode in (-number, 128 + number)


def test_it_can_do_its_work(confined: Confined) -> None:
    code = """
    import numpy, mmap, select, concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        total = threads.submit(lambda: int((numpy.ones((64, 64)) @ numpy.ones((64, 64))).sum()))
    fd = os.memfd_create("shared")
    os.ftruncate(fd, 4096)
    mmap.mmap(fd, 4096)[0] = 1
    import email.parser  # something that was not imported yet
    tell(total=total.result(), model=(pathlib.Path(folder) / "model").read_text(), way=in_force)
    """
    said = facts(confined(code))
    assert said["total"] == 64**3 and said["model"] == "weights"
    assert "seccomp" in said["way"]


def test_it_can_decode_images_with_either_decoder(confined: Confined) -> None:
    photo = (DATA / "images" / "dog.jpg").read_bytes()
    code = f"""
    from edged.preprocess import Preprocess, SSD_300, image_to_array
    photo = {photo!r}
    plain = Preprocess(input="x", height=300, width=300)
    tell(
        pillow=image_to_array(photo, plain).shape,
        tensorflow=image_to_array(photo, SSD_300).shape,
        cut_short=attempt(image_to_array, photo[:5000], SSD_300),
        way=in_force,
    )
    """
    said = facts(confined(code))
    assert said["pillow"] == said["tensorflow"] == [1, 300, 300, 3]
    assert said["cut_short"] == "RequestError" and "seccomp" in said["way"]


def test_where_memory_is_short_it_goes_first(confined: Confined) -> None:
    code = """
    lowered = attempt(pathlib.Path("/proc/self/oom_score_adj").write_text, "0")
    tell(score=score.read(), lowered=lowered)
    """
    assert facts(confined(code)) == {"score": "1000\n", "lowered": "PermissionError"}


def test_files_of_others_are_out_of_sight(confined: Confined, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    code = f"""
    tell(
        secret=attempt(pathlib.Path({str(secret)!r}).read_text),
        passwd=attempt(pathlib.Path("/etc/passwd").read_text),
        home=attempt(os.listdir, {str(Path.home())!r}),
        root=attempt(os.listdir, "/etc"),
        others=attempt(pathlib.Path("/proc/{os.getpid()}/environ").read_bytes),
    )
    """
    allowed = {"PermissionError", "FileNotFoundError", "NotADirectoryError"}
    said = facts(confined(code))
    assert set(said.values()) <= allowed, said


def test_nothing_can_be_written(confined: Confined, tmp_path: Path) -> None:
    code = """
    place = pathlib.Path(folder)
    tell(
        beside=attempt((place / "new").write_text, "x"),
        over=attempt((place / "model").write_text, "x"),
        outside=attempt((place.parent / "new").write_text, "x"),
        tmp=attempt(pathlib.Path("/tmp/new").write_text, "x"),
        away=attempt((place / "model").unlink),
        mode=attempt((place / "model").chmod, 0o777),
        link=attempt((place / "link").symlink_to, "/etc/passwd"),
        cut=attempt(os.truncate, place / "model", 0),
    )
    """
    said = facts(confined(code))
    assert set(said.values()) <= {"PermissionError", "OSError", "FileNotFoundError"}, said
    assert (tmp_path / "readable" / "model").read_text() == "weights"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "readable"]


def test_a_writable_folder_is_and_no_more(confined: Confined, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    code = """
    place = pathlib.Path(writable)
    (place / "deep").mkdir()
    (place / "deep" / "a").write_text("result")
    (place / "deep" / "a").rename(place / "b")
    tell(
        model=attempt((pathlib.Path(folder) / "model").write_text, "x"),
        large=attempt((place / "large").write_bytes, bytes(2 << 20)),
        link=attempt((place / "link").symlink_to, "/etc/passwd"),
    )
    """
    said = facts(confined(code, writable=output))
    assert set(said.values()) <= {"PermissionError", "OSError"}, said
    assert (output / "b").read_text() == "result"
    assert (output / "large").stat().st_size <= MiB


def test_no_socket_can_be_made_but_those_given_work(confined: Confined) -> None:
    ours, theirs = socket.socketpair()
    code = f"""
    given = socket.socket(fileno={theirs.fileno()})
    given.sendall(b"hello")
    made = {{
        name: attempt(socket.socket, family)
        for name, family in dict(
            inet=socket.AF_INET, inet6=socket.AF_INET6, unix=socket.AF_UNIX,
            netlink=socket.AF_NETLINK, packet=socket.AF_PACKET,
        ).items()
    }}
    tell(pair=attempt(socket.socketpair), **made)
    """
    with ours, theirs:
        said = facts(confined(code, pass_fds=(theirs.fileno(),)))
        assert set(said.values()) == {"PermissionError"}, said
        assert ours.recv(16) == b"hello"


def test_no_process_can_be_started(confined: Confined) -> None:
    said = facts(
        confined(
            "tell(fork=attempt(os.fork), spawn=attempt(os.posix_spawn, '/bin/true', ['true'], {}))"
        )
    )
    assert set(said.values()) == {"PermissionError"}


@pytest.mark.parametrize(
    "what",
    [
        "os.execv('/bin/true', ['true'])",
        "ctypes.CDLL(None).ptrace(0, 0, 0, 0)",
        "ctypes.CDLL(None).unshare(0x10000000)",
        "ctypes.CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None)",
        "ctypes.CDLL(None).syscall(425, 1, 0)",  # io_uring_setup
        "os.setuid(0)",
    ],
)
def test_an_intruder_s_call_ends_the_process(confined: Confined, what: str) -> None:
    done = confined(f"{what}\ntell(survived=True)")
    assert ended_by(done, signal.SIGSYS), (done.returncode, done.stdout, done.stderr)
    assert not done.stdout


def test_memory_is_bounded(confined: Confined) -> None:
    code = """
    small = bytearray(16 << 20)
    shared = os.memfd_create("shared")
    tell(large=attempt(bytearray, 512 << 20), shared=attempt(os.ftruncate, shared, 2 << 20))
    """
    said = facts(confined(code, memory=256 * MiB))
    assert said == {"large": "MemoryError", "shared": "OSError"}


def test_other_processes_are_out_of_reach(confined: Confined) -> None:
    said = facts(
        confined(f"tell(kill=attempt(os.kill, {os.getpid()}, 0), init=attempt(os.kill, 1, 9))")
    )
    assert set(said.values()) <= {"PermissionError", "ProcessLookupError"}, said


def test_the_environment_is_its_own(confined: Confined) -> None:
    said = facts(
        confined("tell(secret=os.environ.get('SECRET'), ort=os.environ['ORT_DISABLE_TELEMETRY'])")
    )
    assert said == {"secret": None, "ort": "1"}


def test_threads_that_would_stay_free_are_refused() -> None:
    code = """
import threading
from edged.sandbox import Confinement, lock_down
threading.Thread(target=threading.Event().wait, daemon=True).start()
lock_down(Confinement(()))
"""
    argv = sandbox.command([sys.executable, "-c", code], Confinement(()))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "cannot lock down: the process has 2 threads" in done.stderr


def test_a_process_that_was_not_started_confined_says_how_to() -> None:
    code = "from edged.sandbox import Confinement, lock_down; lock_down(Confinement(()))"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "edged.sandbox.command" in done.stderr


def test_privileges_are_gone(confined: Confined) -> None:
    status = facts(
        confined("""
    import resource
    tell(
        core=resource.getrlimit(resource.RLIMIT_CORE)[0],
        raise_limit=attempt(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 30, 1 << 30)),
        port=attempt(os.open, "/dev/mem", os.O_RDONLY),
    )
    """)
    )
    assert status["core"] == 0
    assert status["raise_limit"] in {"ValueError", "PermissionError"}, status
    assert status["port"] in {"PermissionError", "FileNotFoundError"}


def test_bubblewrap_hides_the_user_and_the_processes() -> None:
    if sandbox.available().bubblewrap is not None:
        pytest.skip(f"needs bubblewrap: {sandbox.available()}")
    code = "import os; print(os.getuid(), [p for p in os.listdir('/proc') if p.isdigit()])"
    done = subprocess.run(
        sandbox.command([sys.executable, "-c", code], Confinement(())),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "65534 ['1', '2']\n"


def test_insisting_on_what_is_not_there_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edged.sandbox import _bubblewrap

    monkeypatch.setenv("PATH", str(tmp_path))
    _bubblewrap.why_not.cache_clear()
    try:
        assert sandbox.command(["/bin/true"], Confinement(()))[-1] == "/bin/true"
        with pytest.raises(SandboxError, match=r"cannot confine .*Debian: bubblewrap"):
            sandbox.command(["/bin/true"], Confinement(()), bubblewrap="bubblewrap")
    finally:
        _bubblewrap.why_not.cache_clear()
