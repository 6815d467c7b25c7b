"""The package in a machine, from its installation to its purge, in this order.

Each test leaves the machine with edged installed and the keyword model serving, but for the last.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from edged import wire
from edged.notices import Notice
from edged.store._catalogue import SCHEMA_VERSION

pytestmark = pytest.mark.systemd

DATA = Path(__file__).parent.parent / "data"
DROP = "/var/lib/edged/drop"
UNITS = ("edged.service", "edged-emulator.service")
INPUT = np.linspace(-40, 40, 490, dtype=np.float32).reshape(1, 49, 10, 1)


def install(machine, package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inside = machine.path(f"/var/tmp/{package.name}")
    shutil.copy(package, inside)
    try:
        return machine.run("dpkg", "--install", *words, f"/var/tmp/{package.name}", check=False)
    finally:
        inside.unlink()


class Client:
    """Calls the model from outside, over the UNIX socket of the service."""

    def __init__(self, machine) -> None:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        address = f"unix:{machine.path('/run/edged/edged.sock')}"
        self._channel = grpc.insecure_channel(address, options)
        self._call = self._channel.unary_unary(f"/{wire.PREDICT}")
        self._metadata = self._channel.unary_unary(f"/{wire.GET_MODEL_METADATA}")
        self._request = wire.PredictRequest(
            inputs={"input_1": wire.from_array(INPUT)}
        ).SerializeToString()

    def call(self, request: bytes | None = None, request_id: str = "") -> str:
        """The gRPC status of one call, a good one unless *request* is given."""
        request = self._request if request is None else request
        metadata = (("x-request-id", request_id),) if request_id else ()
        try:
            self._call(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def client(machine) -> Iterator[Client]:
    client = Client(machine)
    yield client
    client.close()


@contextlib.contextmanager
def load(machine) -> Iterator[list[tuple[float, str]]]:
    """Two clients that call all the time; when each call ended, and how."""
    calls: list[tuple[float, str]] = []
    ended = threading.Event()

    def work() -> None:
        client = Client(machine)
        while not ended.wait(0.02):
            code = client.call()
            calls.append((time.monotonic(), code))
        client.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    calls.sort()


def again(machine, client: Client) -> float:
    """Seconds until a call is answered."""
    return machine.eventually(lambda: client.call() == "OK", "an answer")


def gap(calls: list[tuple[float, str]]) -> tuple[int, float]:
    """How many were refused, and for how long none was answered; nothing else may have happened."""
    assert {code for _, code in calls} <= {"OK", "UNAVAILABLE"}, Counter(c for _, c in calls)
    answered = [at for at, code in calls if code == "OK"]
    longest = max((later - at for at, later in itertools.pairwise(answered)), default=0.0)
    return sum(code == "UNAVAILABLE" for _, code in calls), longest


def processes(machine) -> dict[str, int]:
    """What runs of edged, by what it is."""
    found = {}
    for line in machine.ask("pgrep", "-af", "edged").splitlines():
        pid, _, command = line.partition(" ")
        if "edged.container.worker" in command:
            found["container"] = int(pid)
        elif "/usr/bin/edged-card" in command:
            found["card"] = int(pid)
        elif "/usr/bin/edged-emulator" in command:
            found["emulator"] = int(pid)
        elif "/usr/bin/edged " in command:
            found["daemon"] = int(pid)
    return found


def files(machine) -> set[str]:
    """All that there is on the machine's disk, without what others keep about the past."""
    skipped = ("/var/log", "/var/lib/dpkg", "/var/cache", "/var/tmp", "/tmp", "/root")
    prune = " -o ".join(f"-path {path}" for path in (*skipped, "/proc", "/sys", "/run", "/dev"))
    found = machine.run("sh", "-c", f"find / -xdev \\( {prune} \\) -prune -o -print")
    return set(found.stdout.splitlines())


def test_installed_and_started(machine, package, report) -> None:
    machine.run("sh", "-c", "passwd -S root; ldconfig")  # what others leave behind at first use
    machine.before = files(machine)
    machine.users = machine.path("/etc/passwd").read_text()
    began = time.monotonic()
    done = install(machine, package)
    assert done.returncode == 0, done.stderr
    took = time.monotonic() - began
    machine.eventually(lambda: machine.show("ActiveState") == "active", "the daemon")
    ready = (
        int(machine.show("ActiveEnterTimestampMonotonic"))
        - int(machine.show("InactiveExitTimestampMonotonic"))
    ) / 1e6
    assert ready < 30
    assert machine.show("User") == "edged"
    assert machine.ask("systemctl", "--failed", "--no-legend") == ""
    for unit in UNITS:
        assert machine.ask("systemctl", "is-enabled", unit) == "enabled"
    report("install", f"{took:.1f} s, without a network")
    report("start to ready", f"{ready:.1f} s")


def test_units_are_sound_and_exposure_is_bounded(machine, report) -> None:
    units = machine.ask("sh", "-c", "ls /usr/lib/systemd/system/edged*").split()
    names = [unit.replace("@.", "@second.") for unit in units]
    verified = machine.run("systemd-analyze", "verify", "--man=yes", *names, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    for unit in UNITS:
        said = machine.ask("systemd-analyze", "security", "--no-pager", unit)
        score = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
        assert score <= 2.0
        report(f"exposure of {unit}", f"{score} of 10")


def test_lintian_finds_nothing_but_what_is_overridden(package, report) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    command = ["lintian", "--allow-root", "--fail-on", "error,warning"]
    done = subprocess.run([*command, str(package)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    overridden = Path(__file__).parents[2] / "packaging/debian/lintian-overrides"
    kinds = sum(line.startswith("edged: ") for line in overridden.read_text().splitlines())
    report("lintian", f"nothing, beside {kinds} kinds that are overridden, each with its reason")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Keyword spotting, calibrated."""
    folder = tmp_path_factory.mktemp("bundle")
    with np.load(DATA / "kws01_accuracy_set.npz") as data:
        inputs = (data["x"][:128].astype(np.float32) - 83) * np.float32(0.5847029089927673)
    np.savez(folder / "calibration.npz", input_1=inputs)
    made = folder / "kws-1.0.0.edgemodel"
    command = [sys.executable, "-m", "edged.cli", "pack", DATA / "models" / "kws_dscnn.onnx"]
    command += ["--name", "kws", "--version", "1.0.0", "-o", made]
    subprocess.run([*command, "--calibration", folder / "calibration.npz"], check=True)
    return made


def test_a_member_of_the_group_drops_a_model_and_it_serves(machine, client, bundle, report) -> None:
    machine.run("useradd", "-G", "edged", "alice")
    machine.run("useradd", "mallory")
    shutil.copy(bundle, machine.path(f"/var/tmp/{bundle.name}"))
    machine.path(f"/var/tmp/{bundle.name}").chmod(0o644)
    began = time.monotonic()
    machine.run("runuser", "-u", "alice", "--", "cp", f"/var/tmp/{bundle.name}", DROP)
    status = machine.path(f"{DROP}/{bundle.name}.status.txt")
    machine.eventually(
        lambda: status.exists() and status.read_text().startswith(("serving since", "rejected")),
        "the model to serve",
    )
    took = time.monotonic() - began
    assert status.read_text().startswith("serving since"), status.read_text()
    assert client.call() == "OK"
    assert machine.show("StatusText").startswith("serving kws 1.0.0")
    status = machine.show("StatusText")
    assert re.search(r"emulated.*, \d+ requests/min, [\d.]+ °C \(modelled\)$", status)
    # Alice may read what became of it; Mallory may not, nor drop anything.
    assert machine.ask("runuser", "-u", "alice", "--", "cat", f"{DROP}/{bundle.name}.status.txt")
    assert machine.run("runuser", "-u", "mallory", "--", "ls", DROP, check=False).returncode
    assert "kws" in machine.run("runuser", "-u", "alice", "--", "edgectl", "status").stdout
    refused = machine.run("runuser", "-u", "mallory", "--", "edgectl", "status", check=False)
    assert refused.returncode
    assert refused.stderr.startswith("edgectl: cannot")
    report("dropped by a user to serving", f"{took:.1f} s, compiled meanwhile")


def test_the_journal_has_fields_and_explains(machine, report) -> None:
    (line,) = machine.journal(
        "-o", "json", f"MESSAGE_ID={Notice.SERVES.value.message_id}"
    ).splitlines()
    entry = json.loads(line)
    assert entry["MODEL"].startswith("kws 1.0.0")
    assert entry["DIGEST"].startswith("sha256:")
    assert entry["SYSLOG_IDENTIFIER"] == "edged"
    assert entry["_SYSTEMD_UNIT"] == "edged.service"
    explained = machine.journal("-x", f"MESSAGE_ID={Notice.SERVES.value.message_id}")
    assert f"Subject: Model {entry['MODEL']} serves" in explained
    kinds = machine.ask("journalctl", "--list-catalog")
    assert all(notice.value.message_id in kinds for notice in Notice)
    report("kinds of message that journalctl -x explains", str(len(Notice)))


def test_a_call_is_found_by_its_id(machine, client, report) -> None:
    again(machine, client)
    assert client.call(b"no request", request_id="order-66") == "INVALID_ARGUMENT"
    found = ("REQUEST_ID=order-66", "-u", "edged")
    machine.eventually(lambda: bool(machine.journal("-o", "json", *found)), "the journal")
    (line,) = machine.journal("-o", "json", *found).splitlines()
    entry = json.loads(line)
    assert entry["MESSAGE_ID"] == Notice.CALL_FAILED.value.message_id
    assert entry["MODEL"].startswith("kws 1.0.0")
    assert entry["CODE"] == "INVALID_ARGUMENT"
    assert entry["DIGEST"].startswith("sha256:")
    assert "order-66 ended with INVALID_ARGUMENT" in machine.journal("-x", *found)
    report("a call that fails, by its REQUEST_ID", "MODEL, DIGEST, CODE, CLIENT, MESSAGE_ID; -x")
    # Those of a device say which.
    (line,) = machine.journal(
        "-o", "json", "-n", "1", f"MESSAGE_ID={Notice.DEVICE_FOUND.value.message_id}"
    ).splitlines()
    assert json.loads(line)["DEVICE"].startswith("gateware ")


def test_idle_costs_little(machine, report) -> None:
    clock = 100  # ticks a second, as getconf CLK_TCK says on every Debian
    pids = processes(machine)
    assert set(pids) == {"daemon", "container", "emulator"}

    def sample() -> dict[str, tuple[int, int]]:
        found = {}
        for name, pid in pids.items():
            stat = machine.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            switches = 0
            for task in machine.path(f"/proc/{pid}/task").iterdir():
                text = (task / "status").read_text()
                switches += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M)[1])
            found[name] = int(stat[11]) + int(stat[12]), switches
        return found

    time.sleep(2)  # what the calls before have left to be done is none of it
    before, seconds = sample(), 20
    time.sleep(seconds)
    after = sample()
    for name, pid in pids.items():
        ticks = after[name][0] - before[name][0]
        wakeups = (after[name][1] - before[name][1]) / seconds
        status = machine.path(f"/proc/{pid}/status").read_text()
        memory = int(re.search(r"^RssAnon:\s+(\d+)", status, re.M)[1]) >> 10
        percent = 100 * ticks / clock / seconds
        report(
            f"idle {name}",
            f"{percent:.2f} % of a core, {wakeups:.1f} wake-ups/s, {memory} MiB of its own",
        )
        assert percent < 5


@pytest.mark.parametrize("name", ["daemon", "container", "emulator"])
def test_each_process_may_be_killed(machine, client, report, name: str) -> None:
    assert again(machine, client) < 30
    before = processes(machine)
    machine.run("kill", "-9", str(before[name]))
    machine.eventually(lambda: processes(machine).get(name) != before[name], "its end")
    took = again(machine, client)
    assert processes(machine)[name] != before[name]
    report(f"{name} killed: answers again after", f"{took:.1f} s")


def test_the_keeper_of_the_card_may_be_killed(machine, client, report) -> None:
    """There is no card in here: it looks for one, says so and waits for one."""
    again(machine, client)
    machine.run("systemctl", "start", "edged-card")
    before = processes(machine)["card"]
    machine.run("kill", "-9", str(before))
    took = machine.eventually(
        lambda: processes(machine).get("card", before) != before, "another edged-card", 30
    )
    machine.eventually(lambda: machine.show("ActiveState", "edged-card") == "active", "it to run")
    assert client.call() == "OK"
    said = machine.show("StatusText", "edged-card")
    machine.run("systemctl", "stop", "edged-card")
    report("edged-card killed: runs again after", f"{took:.1f} s, calls go on; STATUS: {said}")


def test_a_daemon_that_hangs_is_ended_by_the_watchdog(machine, client, report) -> None:
    again(machine, client)
    before = processes(machine)["daemon"]
    machine.run("kill", "-STOP", str(before))
    took = machine.eventually(
        lambda: processes(machine).get("daemon", before) != before, "the watchdog", 90
    )
    machine.eventually(lambda: machine.show("ActiveState") == "active", "the daemon")
    took += again(machine, client)
    assert "Watchdog timeout" in machine.journal("-u", "edged", "-b")
    report("daemon stopped by SIGSTOP: answers again after", f"{took:.1f} s (WatchdogSec=30)")


def test_stop_is_bounded_and_leaves_nothing_running(machine, client, report) -> None:
    again(machine, client)
    with load(machine) as calls:
        time.sleep(1)
        began = time.monotonic()
        machine.run("systemctl", "stop", *UNITS)
        took = time.monotonic() - began
        assert processes(machine) == {}
    refused, _ = gap(calls)
    assert took < 60
    assert machine.show("Result") == "success"
    machine.run("systemctl", "start", *reversed(UNITS))
    back = again(machine, client)
    report("stop under load", f"{took:.1f} s; then {refused} calls UNAVAILABLE, no other error")
    report("start: the model serves after", f"{back:.1f} s")


def test_configuration_is_read_again_and_a_wrong_one_ends_the_attempts(
    machine, client, report
) -> None:
    again(machine, client)
    folder = machine.path("/etc/edged/edged.toml.d")
    (folder / "50-test.toml").write_text("[drop]\nsettle_seconds = 0.5\n")
    began = time.monotonic()
    machine.run("systemctl", "reload", "edged")
    report("reload", f"{time.monotonic() - began:.1f} s until it is in force; the model serves on")
    reloaded = f"MESSAGE_ID={Notice.RELOADED.value.message_id}"
    machine.eventually(lambda: "settle_seconds" in machine.journal(reloaded), "the reload")
    assert client.call() == "OK"
    (folder / "50-test.toml").write_text("[drop]\nsetle_seconds = 0.5\n")
    assert machine.run("systemctl", "restart", "edged", check=False).returncode
    machine.eventually(lambda: machine.show("ActiveState") == "failed", "it to give up")
    assert machine.show("ExecMainStatus") == "78"
    failed = machine.journal("-o", "json", f"MESSAGE_ID={Notice.FAILED.value.message_id}")
    assert "setle_seconds" in json.loads(failed.splitlines()[-1])["MESSAGE"]
    (folder / "50-test.toml").unlink()
    machine.run("systemctl", "start", "edged")
    again(machine, client)
    report(
        "a configuration that cannot be used", "status 78, not tried again; the journal says why"
    )


def test_metrics_wait_for_edged_on_a_socket_of_systemds(machine, client, report) -> None:
    ask = (
        "import sys, urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/healthz',"
        " timeout=60).status)"
    )
    machine.run("systemctl", "stop", "edged")
    machine.run("systemctl", "enable", "--now", "edged-metrics.socket")
    machine.run("systemctl", "start", "edged")
    again(machine, client)
    answers: Counter[str] = Counter()

    def scrape() -> str:
        done = machine.run("python3", "-c", ask, check=False)
        return (done.stdout + done.stderr).strip().rpartition("\n")[2]

    with scraping(scrape, answers):
        for _ in range(2):
            machine.run("systemctl", "restart", "edged")
            again(machine, client)
    assert set(answers) == {"200"}, answers
    # And whoever asks has it started.
    machine.run("systemctl", "stop", "edged", check=False)
    assert machine.show("ActiveState") == "inactive"
    assert machine.ask("python3", "-c", ask) == "200"
    machine.run("systemctl", "disable", "--now", "edged-metrics.socket")
    machine.run("systemctl", "restart", "edged")
    again(machine, client)
    report(
        "metrics on edged-metrics.socket, edged restarted twice",
        f"{answers['200']} scrapes, none refused; a scrape starts an edged that is stopped",
    )


@contextlib.contextmanager
def scraping(ask: Callable[[], str], answers: Counter[str]) -> Iterator[None]:
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            answers[ask()] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_certificate_and_key_come_as_credentials_and_are_renewed(machine, client, report) -> None:
    again(machine, client)
    kept = machine.path("/root/tls")
    kept.mkdir(mode=0o700)
    dropin = machine.path("/etc/systemd/system/edged.service.d")
    dropin.mkdir()
    (dropin / "tls.conf").write_text(
        "[Service]\nLoadCredential=tls.crt:/root/tls/crt\nLoadCredential=tls.key:/root/tls/key\n"
    )
    setting = machine.path("/etc/edged/edged.toml.d/50-tls.toml")
    setting.write_text(
        '[listeners.tls]\nlisten = "127.0.0.1:8443"\n'
        'certificate = "{credentials}/tls.crt"\nkey = "{credentials}/tls.key"\n'
    )
    ask = "import ssl; print(ssl.get_server_certificate(('127.0.0.1', 8443)))"
    machine.run("systemctl", "daemon-reload")
    authority = trustme.CA()
    for _ in range(2):
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        (kept / "crt").write_bytes(certificate.cert_chain_pems[0].bytes())
        (kept / "key").write_bytes(certificate.private_key_pem.bytes())
        machine.run("systemctl", "restart", "edged")
        shown = machine.ask("python3", "-c", ask)
        assert shown == certificate.cert_chain_pems[0].bytes().decode().strip()
        again(machine, client)
    report("credentials: certificate and key", "loaded, and renewed by a restart")
    shutil.rmtree(dropin)
    setting.unlink()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "edged")
    again(machine, client)


def test_the_emulator_is_not_for_a_machine_with_a_card(machine, client, report) -> None:
    card = machine.path("/var/lib/card/0000:01:00.0")
    card.mkdir(parents=True)
    for name, value in (("vendor", "0x1b36"), ("device", "0x09c4"), ("class", "0x120000")):
        (card / name).write_text(f"{value}\n")
    (card / "config").write_bytes(bytes(64))
    changes = machine.path("/etc/systemd/system/edged-emulator.service.d/card.conf")
    changes.parent.mkdir()
    changes.write_text("[Service]\nBindReadOnlyPaths=/var/lib/card:/sys/bus/pci/devices\n")
    machine.run("systemctl", "daemon-reload")

    def emulator() -> str:
        machine.run("systemctl", "restart", "edged-emulator")
        return machine.show("ActiveState", "edged-emulator.service")

    # An accelerator of somebody else's.
    assert emulator() == "active"
    again(machine, client)
    (card / "vendor").write_text("0x8086\n")
    assert emulator() == "inactive"
    assert "Intel PAC with Arria 10 GX" in machine.journal("-u", "edged-emulator", "-n", "10")
    machine.eventually(lambda: client.call() == "UNAVAILABLE", "the device to be missed")
    machine.eventually(lambda: "device" in machine.show("StatusText"), "it to say so")
    report("with a card there is no emulator; STATUS", machine.show("StatusText"))
    # Unless it is asked for.
    setting = machine.path("/etc/edged/edged.toml.d/50-device.toml")
    setting.write_text('[device]\nuse = "emulator"\n')
    assert emulator() == "active"
    again(machine, client)
    report("with a card, and device.use = emulator", "the emulator serves")
    setting.unlink()
    changes.unlink()
    changes.parent.rmdir()
    shutil.rmtree(card.parent)
    machine.run("systemctl", "daemon-reload")
    assert emulator() == "active"
    again(machine, client)


def repacked(package: Path, folder: Path, version: str, schema: int) -> Path:
    """The package as it would be under another version, with another version of the tables."""
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder / "content"], check=True)
    control = folder / "content" / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
    (module,) = folder.glob("content/usr/lib/edged/lib/python*/site-packages/edged/__init__.py")
    module.write_text(
        re.sub(r"(?m)^__version__ = .*", f'__version__ = "{version}"', module.read_text())
    )
    script = folder / "content" / "DEBIAN" / "preinst"
    script.write_text(re.sub(r"(?m)^SCHEMA=.*", f"SCHEMA={schema}", script.read_text()))
    made = folder / f"edged_{version}.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build"]
    subprocess.run([*build, folder / "content", made], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder / "content")
    return made


def test_upgraded_under_load(machine, client, package, report, tmp_path) -> None:
    again(machine, client)
    newer = repacked(package, tmp_path, "99.0.0", SCHEMA_VERSION)
    serving = machine.show("StatusText").split(",")[0]
    with load(machine) as calls:
        began = time.monotonic()
        done = install(machine, newer)
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        again(machine, client)
        time.sleep(1)
    refused, longest = gap(calls)
    assert machine.ask("edged", "--version") == "edged 99.0.0"
    assert machine.show("StatusText").split(",")[0] == serving
    # Both sides have the kernel's clock. The units stop one after the other.
    stopped = min(int(machine.show("ActiveExitTimestampMonotonic", unit)) for unit in UNITS) / 1e6
    started = max(int(machine.show("ActiveEnterTimestampMonotonic", unit)) for unit in UNITS) / 1e6
    at = [when for when, code in calls if code == "UNAVAILABLE"]
    assert stopped - 0.1 < min(at)
    served = min(when for when, code in calls if code == "OK" and when > started)
    assert max(at) <= served
    answered = len(calls) - refused
    report(
        "upgrade under load",
        f"{took:.1f} s; {answered} calls answered, {refused} UNAVAILABLE, all in the"
        f" {served - stopped:.1f} s of the restart, nothing else; longest time without an"
        f" answer {longest:.1f} s",
    )


def test_an_edged_that_cannot_read_the_catalogue_is_not_installed(
    machine, client, package, report, tmp_path
) -> None:
    older = repacked(package, tmp_path, "0.0.1", SCHEMA_VERSION - 1)
    version = machine.ask("edged", "--version")
    done = install(machine, older, "--force-downgrade")
    assert done.returncode
    assert "cannot install this version of edged" in done.stderr
    assert machine.ask("edged", "--version") == version
    assert machine.ask("dpkg-query", "-Wf", "${Status}", "edged") == "install ok installed"
    assert client.call() == "OK"
    # As it is shortly after an upgrade: the newer tables are in SQLite's log only.
    change = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version=%d')"
    catalogue = "/var/lib/edged/catalogue.db"
    machine.run("python3", "-c", change % (SCHEMA_VERSION + 1), catalogue)
    header = machine.path(catalogue).read_bytes()[60:64]
    assert int.from_bytes(header, "big") == SCHEMA_VERSION
    done = install(machine, package, "--force-downgrade")
    machine.run("python3", "-c", change % SCHEMA_VERSION, catalogue)
    assert done.returncode
    assert f"version {SCHEMA_VERSION + 1} of its tables" in done.stderr
    assert machine.ask("edged", "--version") == version
    assert client.call() == "OK"
    report(
        "downgrade over a newer catalogue, in its file or in its log",
        "refused with the reason; what served serves on",
    )


def test_completion_and_manual_pages_are_there(machine) -> None:
    for page in ("edgectl", "edged", "edged-emulator"):
        machine.run("man", "--where", page)
    completed = machine.run(
        "bash",
        "-ic",
        "source /usr/share/bash-completion/bash_completion; _completion_loader edgectl;"
        " COMP_WORDS=(edgectl rollb); COMP_CWORD=1; _edgectl edgectl; echo ${COMPREPLY[@]}",
    )
    assert completed.stdout.split() == ["rollback"]


def test_removed_it_keeps_its_state_and_purged_it_leaves_nothing(machine, report) -> None:
    machine.run("dpkg", "--remove", "edged")
    assert processes(machine) == {}
    assert machine.path("/var/lib/edged/catalogue.db").exists()
    machine.run("dpkg", "--purge", "edged")
    machine.run("userdel", "alice")
    machine.run("userdel", "mallory")
    left = {path for path in files(machine) - machine.before if not path.startswith("/var/mail")}
    # What useradd and userdel keep of the files that they change.
    left -= {
        f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
    }
    assert sorted(left) == []
    assert machine.path("/etc/passwd").read_text() == machine.users
    assert "edged" not in machine.path("/etc/group").read_text()
    assert not machine.path("/run/edged").exists()
    assert machine.ask("systemctl", "--failed", "--no-legend") == ""
    report("purge leaves behind", "nothing: no file, no user, no group, no unit")
