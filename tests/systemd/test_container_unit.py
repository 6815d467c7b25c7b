"""The model's container in a unit of its own, under a real systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from edged import wire

pytestmark = pytest.mark.systemd

DATA = Path(__file__).parent.parent / "data"
DROP = "/var/lib/edged/drop"
UNITS = "edged-container@*.service"
INPUT = np.linspace(-40, 40, 490, dtype=np.float32).reshape(1, 49, 10, 1)
REQUEST = wire.PredictRequest(inputs={"input_1": wire.from_array(INPUT)}).SerializeToString()
Report = Callable[[str, str], None]


def units(machine) -> list[str]:
    listed = machine.ask("systemctl", "list-units", "--plain", "--no-legend", UNITS)
    return [line.split()[0] for line in listed.splitlines()]


def processes(machine, unit: str) -> list[int]:
    """As the machine numbers them: the supervisor, then the worker."""
    main = machine.show("MainPID", unit)
    return [int(main), int(machine.ask("cat", f"/proc/{main}/task/{main}/children"))]


def status(machine, pid: int) -> dict[str, list[str]]:
    lines = machine.ask("cat", f"/proc/{pid}/status").splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def call(machine) -> Iterator[Callable[[], str]]:
    """The gRPC status of one call."""
    options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]
    address = f"unix:{machine.path('/run/edged/edged.sock')}"
    with grpc.insecure_channel(address, options) as channel:
        predict = channel.unary_unary(f"/{wire.PREDICT}")

        def one() -> str:
            try:
                predict(REQUEST, timeout=20)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        yield one


@pytest.fixture(scope="module")
def serving(machine, package, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The package in the machine, and the keyword model serving."""
    inside = machine.path(f"/var/tmp/{package.name}")
    shutil.copy(package, inside)
    machine.run("dpkg", "--install", f"/var/tmp/{package.name}")
    folder = tmp_path_factory.mktemp("model")
    np.savez(folder / "calibration.npz", input_1=np.tile(INPUT, (8, 1, 1, 1)))
    made = folder / "kws-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "pack", DATA / "models" / "kws_dscnn.onnx"]
    command += ["--name", "kws", "--version", "1.0.0", "-o", made]
    subprocess.run([*command, "--calibration", folder / "calibration.npz"], check=True)
    shutil.copy(made, machine.path(f"/var/tmp/{made.name}"))
    machine.run("cp", f"/var/tmp/{made.name}", DROP)
    machine.eventually(
        lambda: machine.show("StatusText").startswith("serving kws"), "the model to serve"
    )


@pytest.fixture
def unit(machine, serving) -> str:
    """The one that serves; there is no other."""
    machine.eventually(
        lambda: machine.show("StatusText").startswith("serving kws") and len(units(machine)) == 1,
        "one container",
    )
    return units(machine)[0]


def test_exposure_is_bounded(machine, serving, report: Report) -> None:
    said = machine.ask("systemd-analyze", "security", "--no-pager", "edged-container@.service")
    found = re.search(r"Overall exposure level for edged-container@\S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= 1.5, said
    left = [line.split()[1] for line in said.splitlines() if line.startswith("✗")]
    report("systemd-analyze security edged-container@", f"{found[1]} ({', '.join(left)})")


def test_a_container_is_nobody_and_sees_nothing(machine, unit: str, report: Report) -> None:
    supervisor, worker = processes(machine, unit)
    daemon = int(machine.show("MainPID"))
    for kind in ("net", "mnt", "ipc", "user", "uts"):
        own, other = (machine.ask("readlink", f"/proc/{pid}/ns/{kind}") for pid in (worker, daemon))
        assert own and own != other, kind
    said = status(machine, worker)
    users = {*said["Uid"]}
    assert len(users) == 1 and 61184 <= int(users.pop()) <= 65519  # systemd's dynamic ones
    assert said["Groups"] == [] or said["Groups"] == [said["Gid"][0]]
    assert {said[key][0] for key in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert said["NoNewPrivs"] == ["1"] and said["Seccomp"] == ["2"]
    assert status(machine, supervisor)["Uid"] == said["Uid"]
    inside = f"/proc/{worker}/root"
    # The program is there; besides, folders that systemd makes to mount something else over.
    program = " ".join(f"-path ./{name} -prune -o" for name in ("usr", "bin", "lib", "lib64"))
    find = f"cd {inside}/ && find . -xdev {program} ! -type d -print"
    assert set(machine.ask("sh", "-c", find).split()) <= {"./etc/ld.so.cache"}
    for hidden in ("var/lib/edged", "run/edged", "etc/edged"):
        assert machine.run("test", "-e", f"{inside}/{hidden}", check=False).returncode, hidden
    assert machine.ask("nsenter", "-t", str(worker), "-n", "cat", "/proc/net/dev").count(":") == 1
    nodes = machine.ask("find", f"{inside}/dev/", "-maxdepth", "1", "-type", "b,c").split()
    names = {Path(node).name for node in nodes}
    assert names <= {"null", "zero", "full", "random", "urandom", "tty", "ptmx"}, names
    touched = machine.run("nsenter", "-t", str(worker), "-m", "touch", "/usr/x", check=False)
    assert "Read-only file system" in touched.stderr
    report(
        "a container's user, groups, device nodes",
        f"{said['Uid'][0]}, {len(said['Groups'])}, {', '.join(sorted(names))}",
    )


def test_one_that_is_killed_is_replaced(machine, unit: str, call, report: Report) -> None:
    assert "supervisor" in machine.ask("systemctl", "status", "--no-pager", UNITS)
    for which in (1, 0):
        (old,) = units(machine)
        machine.run("kill", "-KILL", str(processes(machine, old)[which]))
        took = machine.eventually(
            lambda old=old: old not in units(machine) and call() == "OK", "another container"
        )
        report(f"{('its supervisor', 'a container')[which]} killed to served", f"{took:.2f} s")
        machine.eventually(lambda: len(units(machine)) == 1, "one container")
    said = machine.journal("-u", "edged")
    assert "it was killed (SIGKILL), by someone or for want of memory" in said
    assert re.search(r"edged-container@\S+\.service was stopped or killed; `journalctl -u ", said)
    assert machine.ask("systemctl", "--failed", "--plain", "--no-legend") == ""


def test_one_that_hangs_is_ended_without_privilege(machine, unit: str, call, report) -> None:
    toml = machine.path("/etc/edged/edged.toml.d/hang.toml")
    toml.write_text("[container]\ncall_seconds = 1\n")
    machine.run("systemctl", "restart", "edged")
    machine.eventually(lambda: call() == "OK", "the model to serve")
    machine.eventually(lambda: len(units(machine)) == 1, "one container")
    (old,) = units(machine)
    machine.run("kill", "-STOP", str(processes(machine, old)[1]))
    call()
    took = machine.eventually(
        lambda: old not in units(machine) and call() == "OK", "another container"
    )
    toml.unlink()
    machine.run("systemctl", "restart", "edged")
    machine.eventually(lambda: call() == "OK", "the model to serve")
    report("a container that hangs (call_seconds = 1) to served", f"{took:.2f} s")


def test_without_the_socket_edged_goes_on_and_says_so(machine, unit: str, call) -> None:
    machine.run("systemctl", "stop", "edged-container.socket")
    machine.run("kill", "-KILL", str(processes(machine, unit)[1]))
    machine.eventually(lambda: call() == "OK" and not units(machine), "a container without unit")
    assert "cannot start a container by systemd" in machine.journal("-u", "edged", "-n", "40")
    toml = machine.path("/etc/edged/edged.toml.d/launcher.toml")
    toml.write_text('[container]\nlauncher = "systemd"\nsocket = "/run/edged/none.sock"\n')
    machine.run("systemctl", "restart", "edged", check=False)
    machine.eventually(lambda: machine.show("ExecMainStatus") == "78", "edged to refuse")
    assert 'container.launcher is "systemd"' in machine.journal("-u", "edged", "-n", "40")
    toml.unlink()
    machine.run("systemctl", "restart", "edged")
    machine.eventually(lambda: call() == "OK" and len(units(machine)) == 1, "the model to serve")


def test_who_may_have_containers_started(machine, serving) -> None:
    socket = machine.path("/run/edged/container.sock").stat()
    owner = machine.ask("id", "-u", "edged")
    assert (socket.st_mode & 0o777, str(socket.st_uid)) == (0o600, owner)


def test_stopped_with_edged(machine, unit: str, call, report: Report) -> None:
    machine.run("systemctl", "stop", "edged")
    took = machine.eventually(lambda: not units(machine), "no container", 10)
    machine.run("systemctl", "start", "edged")
    machine.eventually(lambda: call() == "OK", "the model to serve")
    report("containers left after edged was stopped, for", f"{took:.2f} s")
    ready = re.findall(r"container \d+ is ready after (\d+) ms", machine.journal("-u", "edged"))
    report("containers started by systemd, ms", " ".join(ready))
