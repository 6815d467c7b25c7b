"""The commands about a running daemon, whose answers are written down here."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

MODEL = {
    "name": "kws",
    "version": "1.0.0",
    "serial": 1000000,
    "digest": "sha256:" + "0" * 64,
    "size": 1_500_000,
    "added": 1_700_000_000.0,
    "loaded": True,
    "committed": True,
    "what a newer edged says": 1,
    "remarks": [
        {"code": "made-up-calibration", "text": "calibrated on made-up inputs", "warning": True},
        {"code": "host-share", "text": "14 % stay [on] the host", "value": 0.14},
    ],
}
ASIDE = MODEL | {
    "version": "2.0.0",
    "loaded": False,
    "committed": False,
    "last_good": True,
    "set_aside": "cannot compile: [Conv3D] is " + "long " * 40,
    "set_aside_at": 1_700_000_001.0,
    "remarks": [],
}
STATUS = {
    "version": "0.1.0",
    "state": "serving",
    "model": MODEL,
    "since": 1_700_000_002.0,
    "problem": "",
    "pinned": False,
    "store_problems": ["a new catalogue was made"],
    "calls": {"per_minute": 312.0, "failed": 0, "p50_seconds": 0.00412, "p99_seconds": 0.0123},
}
DEVICE = {
    "present": True,
    "state": "ACTIVE",
    "identity": "gateware 0123456789abcdef, array 16x32x4 at 250 MHz, 4096 MiB",
    "readings": [
        {"name": "temperature", "value": 54.0, "unit": "°C", "level": "ok", "text": "54 °C"}
    ],
    "resets_failed": {"soft reset": 0},
}
SWAP = {
    "at": 1_700_000_000.0,
    "model": "kws 1.0.0",
    "digest": MODEL["digest"],
    "cause": "drop of [kws].edgemodel",
    "gate_closed_seconds": 0.0234,
}
DONE = {"model": "kws 1.0.0", "since": 1.0, "already": False, "gate_closed_seconds": 0.0234}


@dataclass
class Answers:
    """By request line without its end: status and lines. What was asked is kept."""

    path: Path
    by_request: dict[str, tuple[int, list[object]]]
    asked: list[tuple[str, bytes]] = field(default_factory=list)


@pytest.fixture
def daemon() -> Iterator[Answers]:
    # The path of a socket is short.
    with tempfile.TemporaryDirectory() as folder:
        answers = Answers(
            Path(folder) / "control.sock",
            {
                "GET /v1/status": (200, [STATUS]),
                "GET /v1/models": (200, [[MODEL, ASIDE]]),
                "GET /v1/device": (200, [DEVICE]),
                "GET /v1/history?limit=3": (200, [[SWAP]]),
                "POST /v1/activate": (
                    200,
                    [{"text": "compiling", "fraction": 0.5}, {"text": "loading"}, {"done": DONE}],
                ),
            },
        )

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = f"{self.command} {self.path}"
                answers.asked.append((request, body))
                status, lines = answers.by_request[request]
                self.send_response(status)
                self.end_headers()
                for line in lines:
                    self.wfile.write(json.dumps(line).encode() + b"\n")

            do_GET = do_POST = do_DELETE = answer  # noqa: N815  (the names that it calls)

            def log_message(self, *_: object) -> None: ...

            def address_string(self) -> str:
                return "unix"

        with socketserver.ThreadingUnixStreamServer(str(answers.path), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield answers
            server.shutdown()
            thread.join()


def edgectl(
    daemon: Answers | Path | None, *words: str, through: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    path = daemon.path if isinstance(daemon, Answers) else daemon
    where = ["--socket", str(path)] if path else []
    return subprocess.run(
        [*through, sys.executable, "-m", "edged.cli", *words, *where],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", **environment},
    )


def test_status(daemon: Answers) -> None:
    done = edgectl(daemon, "status")
    assert (done.returncode, done.stderr) == (0, "")
    aside = f"problem  kws 2.0.0 is set aside: {ASIDE['set_aside']}"
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "edged    0.1.0",
        "state    serving",
        "model    kws 1.0.0 (serial 1000000), since 2023-11-14 22:13:22 UTC",
        "note     calibrated on made-up inputs",
        "note     14 % stay [on] the host",
        "calls    312 a minute, p50 4.12 ms, p99 12.3 ms",
        "device   ACTIVE, 54 °C, gateware 0123456789abcdef, array 16x32x4 at 250 MHz, 4096 MiB",
        "pinned   no",
        "change   2023-11-14 22:13:20 UTC  kws 1.0.0, calls held 23 ms, drop of [kws].edgemodel",
        aside.rstrip(),
        "         → `edgectl activate kws@2.0.0` tries it once more, `edgectl remove kws@2.0.0`"
        " forgets it",
        "problem  a new catalogue was made",
        "         → drop again the bundles that `edgectl models` no longer lists",
    ]
    found = json.loads(edgectl(daemon, "status", "--json").stdout)
    assert (found["model"]["name"], found["device"]["state"]) == ("kws", "ACTIVE")
    assert (found["calls"], found["swaps"]) == (STATUS["calls"], [SWAP])
    assert found["problems"][1]["text"] == "a new catalogue was made"


def test_each_problem_of_the_status_has_its_cure(daemon: Answers) -> None:
    hot = {"name": "temperature", "value": 96.0, "unit": "°C", "level": "throttle", "text": "96 °C"}
    daemon.by_request |= {
        "GET /v1/status": (
            200,
            [STATUS | {"store_problems": [], "calls": {"per_minute": 60.0, "failed": 6}}],
        ),
        "GET /v1/device": (
            200,
            [DEVICE | {"readings": [hot], "resets_failed": {"soft reset": 2}}],
        ),
        "GET /v1/models": (200, [[MODEL]]),
    }
    problems = json.loads(edgectl(daemon, "status", "--json").stdout)["problems"]
    assert [problem["text"] for problem in problems] == [
        "temperature is 96 °C: calls are slowed down",
        "the device was reset in vain: soft reset, 2 times",
        "6 calls of the last minute failed",
    ]
    assert "look at the fans" in problems[0]["cure"]
    daemon.by_request["GET /v1/status"] = (
        200,
        [
            STATUS
            | {"state": "no device", "model": None, "since": None, "problem": "it is gone"}
            | {"store_problems": [], "calls": None}
        ],
    )
    daemon.by_request["GET /v1/device"] = (200, [{"present": False}])
    screen = edgectl(daemon, "status").stdout
    assert "device   not in use" in screen
    assert "problem  it is gone\n         → `edgectl doctor` looks for it" in screen


def test_status_can_be_watched(daemon: Answers) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edged.cli", "status", "--watch", "--json", "--socket", daemon.path],
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        shown = ""
        while shown.count("\n}\n") < 2:
            shown += watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait() == 0


def test_models(daemon: Answers) -> None:
    done = edgectl(daemon, "models")
    assert (done.returncode, done.stderr) == (0, "")
    # A line a model, whatever its length: it may go into a pipe.
    head, kws, aside, empty, note = done.stdout.splitlines()
    assert head.split("  ")[0] == "MODEL"
    assert kws.rstrip() == "kws@1.0.0  1000000  1.5 MB  2023-11-14 22:13:20  86%        loaded"
    assert "  –          what a rollback leads to" in aside
    assert (empty, note) == ("", "kws@1.0.0: calibrated on made-up inputs")
    assert (
        "what a rollback leads to; set aside on 2023-11-14 22:13:21: cannot compile: [Conv3D] is"
        in aside
    )
    found = json.loads(edgectl(daemon, "models", "--json").stdout)
    assert [model["set_aside"] for model in found["models"]] == [None, ASIDE["set_aside"]]


def test_history(daemon: Answers) -> None:
    swaps = [
        {
            "at": 1_700_000_000.0,
            "model": "kws 1.0.0",
            "digest": MODEL["digest"],
            "cause": "drop of [kws].edgemodel",
            "gate_closed_seconds": 0.0234,
        },
        {
            "at": 1_600_000_000.0,
            "model": "",
            "digest": MODEL["digest"],
            "cause": "",
            "gate_closed_seconds": None,
        },
    ]
    daemon.by_request["GET /v1/history?limit=2"] = (200, [swaps])
    done = edgectl(daemon, "history", "--limit", "2")
    _, one, two = (" ".join(line.split()) for line in done.stdout.splitlines())
    assert one == "2023-11-14 22:13:20 kws 1.0.0 23 ms drop of [kws].edgemodel"
    assert two == "2020-09-13 12:26:40 sha256:000000000000 – –"
    assert json.loads(edgectl(daemon, "history", "--limit", "2", "--json").stdout) == swaps


def test_activate(daemon: Answers) -> None:
    done = edgectl(daemon, "activate", "kws")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "kws 1.0.0 serves; calls were held for 23 ms\n"
    assert json.loads(edgectl(daemon, "activate", "kws@1.0.0", "--json").stdout) == DONE
    assert [json.loads(body) for _, body in daemon.asked] == [
        {"name": "kws", "version": None},
        {"name": "kws", "version": "1.0.0"},
    ]
    for wrong in ("@1", "kws@", "@"):
        done = edgectl(daemon, "activate", wrong)
        assert done.returncode == 65 and "wanted NAME or NAME@VERSION" in done.stderr
    assert len(daemon.asked) == 2


def test_what_fails_under_way(daemon: Answers) -> None:
    error = {"error": "cannot compile: no [such] operator", "status": "INVALID_ARGUMENT"}
    daemon.by_request["POST /v1/rollback"] = (200, [{"text": "compiling"}, error])
    done = edgectl(daemon, "rollback")
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr == "edgectl: cannot compile: no [such] operator\n"
    daemon.by_request["POST /v1/rollback"] = (404, [error | {"status": "NOT_FOUND"}])
    assert edgectl(daemon, "rollback").returncode == 66
    daemon.by_request["POST /v1/rollback"] = (200, [{"text": "compiling"}])
    done = edgectl(daemon, "rollback")
    assert done.returncode == 75
    assert done.stderr.endswith("control.sock: it hung up\n")


def test_pin_and_remove(daemon: Answers) -> None:
    daemon.by_request["POST /v1/pin"] = (200, [{"pinned": True}])
    assert edgectl(daemon, "pin").stdout == "pinned to kws 1.0.0\n"
    daemon.by_request["POST /v1/pin"] = (200, [{"pinned": False}])
    assert edgectl(daemon, "unpin").stdout == "not pinned: what is dropped serves\n"
    daemon.by_request["DELETE /v1/models/kws@1.0.0%2Bb"] = (204, [])
    assert edgectl(daemon, "remove", "kws@1.0.0+b").stdout == "removed kws@1.0.0+b\n"
    bodies = [json.loads(body) for request, body in daemon.asked if request == "POST /v1/pin"]
    assert bodies == [{"pinned": True}, {"pinned": False}]


@pytest.mark.parametrize("left_behind", [False, True])
def test_no_daemon(tmp_path: Path, left_behind: bool) -> None:
    path = tmp_path / "control.sock"
    if left_behind:
        socketserver.UnixStreamServer(str(path), BaseHTTPRequestHandler).server_close()
    done = edgectl(path, "models")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith(
        f"edgectl: cannot reach edged at {path}: is it running? systemctl status edged ("
    )
    assert done.stderr.count("\n") == 1


def test_permission_denied(daemon: Answers) -> None:
    daemon.path.chmod(0)
    # Root is denied as well once it may not pass over permissions.
    drop = "--bounding-set=-dac_override,-dac_read_search"
    done = edgectl(daemon, "status", through=("setpriv", drop) if os.getuid() == 0 else ())
    assert done.returncode == 65, done.stderr
    owner, group = daemon.path.owner(), daemon.path.group()
    assert f"it has mode 0000, owner {owner} and group {group}" in done.stderr
    assert f"usermod -aG {group} USER" in done.stderr
    assert daemon.asked == []


def test_the_socket_is_where_the_daemon_has_it(daemon: Answers, tmp_path: Path) -> None:
    config = tmp_path / "edged.toml"
    config.write_text(f'[console]\nsocket = "{daemon.path}"\n')
    assert edgectl(None, "status", "--config", str(config)).returncode == 0
    (tmp_path / "edged").mkdir()
    (tmp_path / "edged" / "control.sock").symlink_to(daemon.path)
    assert edgectl(None, "status", XDG_RUNTIME_DIR=str(tmp_path)).returncode == 0
    done = edgectl(None, "status", XDG_RUNTIME_DIR=str(tmp_path / "none"))
    assert done.returncode == 75
    assert "cannot reach edged at /run/edged/control.sock: " in done.stderr


def test_something_else_answers(daemon: Answers) -> None:
    daemon.by_request["GET /v1/status"] = (200, [{"hello": "world"}])
    done = edgectl(daemon, "status")
    assert done.returncode == 70
    assert "is it an edged of another version?" in done.stderr
