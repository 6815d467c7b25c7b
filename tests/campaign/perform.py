"""One case, from a healthy appliance to the verdict."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from campaign.cases import Act, Case, Deed
from campaign.checker import Checker, files_of
from campaign.clients import Clients, Question
from campaign.models import Models, make_models
from campaign.rig import Failure, Rig, eventually, stopped, within
from patience import PATIENCE

__all__ = ["Ground", "Result", "perform"]

_FAULT_EXIT = 86
_MOST_DEATHS = 8
_QUIET_SECONDS = 5.0
_IN_SERVICE = (Act.BOOT, Act.FIRST_BOOT, Act.UPGRADE)


@dataclass(frozen=True)
class Ground:
    """What all cases begin with.

    Attributes:
        a, ab: state folders in which a is committed; with b known and last good, in the second.
        old: the first with a catalogue of schema 1.
        answers: the model's name by its answer.
        files: in the state folder after b was dropped on a and all went well.
        bad: a bundle cut in half.
    """

    models: Models
    a: Path
    ab: Path
    old: Path
    answers: dict[bytes, str]
    files: frozenset[str]
    bad: Path

    @classmethod
    def prepare(cls, folder: Path) -> Ground:
        """Make all that, by an undisturbed run."""
        models = make_models(folder)
        question, answers = Question(models.inputs), {}
        (folder / "r").mkdir()
        rig = Rig(folder / "r")
        try:
            rig.start_emulator()
            for bundle in (models.a, models.b, models.a):
                rig.start_daemon()
                eventually(rig.up, "the daemon")
                checker = _checker(rig, bundle, bundle.name[0], question, {})
                # Whose answer it is nobody knows yet.
                checker.dropped_again(bundle)
                with grpc.insecure_channel(f"unix:{rig.socket}") as channel:
                    answers[question.ask(channel)] = bundle.name[0]
                checker.close()
                _end(rig)
                files = files_of(rig.state)
                shutil.copytree(rig.state, folder / f"state{len(list(folder.glob('state*')))}")
        finally:
            rig.close()
        assert len(answers) == 2, rig.log.read_text()
        shutil.copytree(folder / "state0", folder / "old")
        _downgrade(folder / "old")
        bad = folder / "bad.edgemodel"
        bad.write_bytes(models.b.read_bytes()[:40_000])
        return cls(
            models,
            folder / "state0",
            folder / "state2",
            folder / "old",
            answers,
            frozenset(files),
            bad,
        )


@dataclass
class Result:
    """What came of a case.

    Attributes:
        serves: the model that served once all was over.
        calls: how the clients fared.
        violations: what should not have been, a sentence each.
        log: the end of what the processes said, when there are violations.
    """

    case: Case
    seconds: float = 0.0
    happened: str = ""
    serves: str = "–"
    calls: str = ""
    violations: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def ok(self) -> bool:
        return not self.violations


def perform(case: Case, ground: Ground) -> Result:
    """Do it, and have it checked."""
    began = time.monotonic()
    result = Result(case)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ec-")))
        run = _Run(case, ground, folder, result, stack)
        try:
            run.run()
        except Failure as failure:
            result.violations.append(str(failure))
        except Exception as error:  # one case that cannot be performed is no end of the campaign
            result.violations.append(f"could not be performed: {error!r}")
        finally:
            run.close()
        if not result.ok:
            result.log = run.rig.log.read_text(errors="replace")[-6000:]
    result.seconds = time.monotonic() - began
    return result


class _Run:
    def __init__(
        self, case: Case, ground: Ground, folder: Path, result: Result, stack: ExitStack
    ) -> None:
        self.case, self.ground, self.result = case, ground, result
        if case.deed is Deed.FILL_DISK:
            stack.enter_context(_small_disk(folder / "disk"))
        self.rig = Rig(folder, self._state())
        name = ground.bad if case.act is Act.DROP_BAD else ground.models.b
        question = Question(ground.models.inputs)
        self.checker = _checker(self.rig, name, "b", question, ground.answers)
        self.again = _checker(self.rig, ground.models.b, "b", question, ground.answers)
        self.clients = Clients(self.rig.socket, question, ground.answers)
        self._notes: list[str] = []
        self._allowed: set[str] = set()
        self._told = False

    def run(self) -> None:
        self._begin()
        with self.clients:
            if self.case.act not in _IN_SERVICE:
                eventually(lambda: len(self.clients.replies) > 5, "the first answers")
            hurt = time.monotonic()
            self._act()
            self._strike()
            self._heal()
            healed = time.monotonic()
            self.result.violations += self.checker.unexplained()
            if self.case.act is Act.PIN:
                self.rig.edgectl("unpin")
            self._check_calls(hurt, healed)
            self.result.violations += self.again.dropped_again(self.ground.models.b)
        if self.case.kind not in ("exit", "stall"):
            self._power_cut()  # The others were started again already.
        self._finish()

    def close(self) -> None:
        self.clients.stop()
        self.checker.close()
        self.again.close()
        self.rig.close()
        self.result.happened = "; ".join(self._notes)

    # Before.

    def _state(self) -> Path | None:
        match self.case.act:
            case Act.FIRST_BOOT:
                return None
            case Act.UPGRADE:
                return self.ground.old
            case Act.BOOT | Act.REMOVE | Act.REDROP:
                return self.ground.ab if self.case.deed is not Deed.FLIP_CACHE else self.ground.a
        return self.ground.a

    def _begin(self) -> None:
        case, rig = self.case, self.rig
        match case.deed:
            case Deed.FLIP_CACHE:
                (image,) = rig.state.rglob("program.img")
                _flip(image)
            case Deed.FLIP_MODEL:
                _flip(_model_blob(rig.state, self.ground.models))
            case Deed.SHORT_OF_MEMORY:
                rig.configure(f"[compiler]\nmemory_bytes = {128 << 20}\n")
        rig.start_emulator(case.fault if case.in_emulator else "")
        rig.start_daemon("" if case.in_emulator else case.fault)
        if case.act not in _IN_SERVICE:
            eventually(lambda: rig.up() and self.checker.serves() == "a", "a to serve")
        if case.deed is Deed.FILL_DISK:
            _fill(rig.state.parent, case.free)

    # The fault.

    def _act(self) -> None:
        match self.case.act:
            case Act.DROP | Act.REDROP:
                self._drop(self.ground.models.b)
            case Act.DROP_BAD:
                self._drop(self.ground.bad)
            case Act.PIN:
                self.rig.edgectl("pin")
            case Act.REMOVE:
                self.rig.edgectl("remove", "b@1.0.0")

    def _drop(self, bundle: Path) -> None:
        shutil.copyfile(bundle, self.rig.drop / bundle.name)

    def _strike(self) -> None:
        case = self.case
        if case.kind == "outside":
            self._do_outside()
            return
        before = case.before.partition(":")[0]
        if before:
            eventually(lambda: self.rig.struck(before), f"the fault at {before}")
        eventually(lambda: self.rig.struck(case.point), f"the fault at {case.point}")
        process = self.rig.emulator if case.in_emulator else self.rig.daemon
        assert process is not None
        match case.kind:
            case "exit":
                eventually(lambda: process.poll() is not None, "the process to end")
                if process.returncode != _FAULT_EXIT:
                    self.result.violations.append(f"ended with status {process.returncode}")
                self._revive()
            case "stall":
                time.sleep(1.0)  # for the clients to be hurt, if they are
                self._revive()
            case "pause":
                eventually(lambda: stopped(process.pid), "the process to stand still")
                self._deed(process)
        if case.again and case.kind == "exit":
            self._insist()

    def _revive(self) -> None:
        """Start again what has struck, without the fault."""
        self._allowed.add("UNAVAILABLE")
        if self.case.in_emulator:
            self._power_cycle()
            return
        self._daemon_died()
        self.rig.start_daemon(self.case.fault if self.case.again else "")
        self._notes.append("edged ended and was started again")

    def _daemon_died(self) -> None:
        self.rig.kill(self.rig.daemon)
        self._told = self.checker.told_serving()
        self._allowed.add("UNAVAILABLE")
        if not within(lambda: not self.rig.containers(), PATIENCE):
            self.result.violations.append("a container outlives edged")

    def _power_cycle(self) -> None:
        self._allowed.add("UNAVAILABLE")
        self.rig.kill(self.rig.emulator)
        self.rig.start_emulator()
        self._notes.append("device off and on")

    def _insist(self) -> None:
        """Start edged, with the fault, as often as it ends: not for ever."""
        deaths = 1
        while within(self._daemon_ended, _QUIET_SECONDS):
            deaths += 1
            if deaths > _MOST_DEATHS:
                self.result.violations.append(f"a boot loop: {deaths} starts ended")
                break
            self.rig.start_daemon(self.case.fault)
        self._notes.append(f"after {deaths} ends it stayed, {self.checker.serves()} then")
        self._daemon_died()
        self.rig.start_daemon()

    def _daemon_ended(self) -> bool:
        return self.rig.daemon is not None and self.rig.daemon.poll() is not None

    def _deed(self, paused: subprocess.Popen[bytes]) -> None:
        rig, deed = self.rig, self.case.deed
        containers = rig.containers()
        match deed:
            case Deed.KILL_NEW_CONTAINER | Deed.KILL_OLD_CONTAINER:
                old = deed is Deed.KILL_OLD_CONTAINER
                # One that was started a moment ago may not be what it will be yet.
                eventually(lambda: len(rig.containers()) == 2, "both containers")
                containers = rig.containers()
                os.kill(containers[0 if old else 1], signal.SIGKILL)
                if old or self.case.point == "slot.opened":
                    self._allowed.add("UNAVAILABLE")
                self._notes.append("container killed")
            case Deed.KILL_COMPILER:
                for pid in rig.compilers():
                    os.kill(pid, signal.SIGKILL)
                self._notes.append("compiler killed")
            case Deed.FLIP_IMAGE_IN_FLIGHT:
                assert rig.daemon is not None
                _flip_in_memory(rig.daemon.pid)
            case Deed.KILL_EMULATOR:
                self._power_cycle()
            case Deed.POWER_CUT:
                self._cut()
                return
            case Deed.STALL_EMULATOR | Deed.FREEZE_EMULATOR:
                self._resume(paused)
                self._stall()
        self._resume(paused)

    def _resume(self, paused: subprocess.Popen[bytes]) -> None:
        if paused.poll() is None:
            os.kill(paused.pid, signal.SIGCONT)

    def _stall(self) -> None:
        emulator = self.rig.emulator
        assert emulator is not None
        os.kill(emulator.pid, signal.SIGSTOP)
        time.sleep(2.0)  # that is how long it stalls
        if self.case.deed is Deed.FREEZE_EMULATOR:
            self._power_cycle()
        else:
            os.kill(emulator.pid, signal.SIGCONT)
            self._notes.append("device stalled")

    def _cut(self) -> None:
        self.rig.kill(self.rig.emulator)
        self._daemon_died()
        self.rig.start_emulator()
        self.rig.start_daemon()
        self._notes.append("power off and on")

    def _do_outside(self) -> None:
        rig = self.rig
        match self.case.deed:
            case Deed.KILL_OLD_CONTAINER:
                (container,) = rig.containers()
                os.kill(container, signal.SIGKILL)
                self._allowed.add("UNAVAILABLE")
                eventually(lambda: rig.containers() not in ([], [container]), "another container")
                self._notes.append("replaced")
            case Deed.STOP_OLD_CONTAINER:
                (container,) = rig.containers()
                os.kill(container, signal.SIGSTOP)
                self._allowed |= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
                eventually(lambda: rig.containers() not in ([], [container]), "another container")
                self._notes.append("replaced")
            case Deed.KILL_EMULATOR:
                self._power_cycle()
            case Deed.STALL_EMULATOR | Deed.FREEZE_EMULATOR:
                self._stall()
            case Deed.POWER_CUT:
                self._cut()
            case Deed.KILL_DAEMON:
                chance = random.Random(str(self.case))
                time.sleep(chance.uniform(0.1, 1.4))
                self._daemon_died()
                rig.start_daemon()
                self._notes.append("edged ended and was started again")
            case Deed.FILL_DISK:
                self.result.serves = self.checker.settled()
                self._notes.append(_short(self.checker.status()))
                self._daemon_died()
                rig.start_daemon()
                if not within(lambda: self.checker.serves() == self.result.serves, PATIENCE):
                    self.result.violations.append(
                        f"started on a full disk, {self.checker.serves()} serves"
                    )
                (rig.state.parent / "ballast").unlink()
            case Deed.SHORT_OF_MEMORY:
                self.checker.settled()
                self._notes.append(_short(self.checker.status()))
                rig.configure()
                self._daemon_died()
                rig.start_daemon()

    # After.

    def _heal(self) -> None:
        eventually(self.rig.up, "the daemon to listen")
        hopeless = self.case.again and self.case.act is Act.BOOT
        if hopeless or self.case.act is Act.FIRST_BOOT:
            return
        serves = self.result.serves = self.checker.settled()
        status = _short(self.checker.status())
        if status and status not in self._notes:
            self._notes.append(status)
        if self._told and serves != "b":
            self.result.violations.append(
                f"b was reported as serving; after a restart, {serves} is"
            )
        dropped = self.case.act in (Act.DROP, Act.REDROP)
        if not dropped and serves != "a" and self.case.deed is not Deed.FLIP_MODEL:
            self.result.violations.append(f"a was committed; {serves} serves")

    def _check_calls(self, hurt: float, healed: float) -> None:
        replies = self.clients.replies
        failed = [reply for reply in replies if not reply.model]
        if self.case.act in _IN_SERVICE:
            self._allowed |= {"UNAVAILABLE", "NOT_FOUND"}
        unexpected = [
            reply
            for reply in failed
            if reply.error not in self._allowed
            or not hurt - 0.5 < reply.at + reply.seconds
            or reply.at > healed
        ]
        for text in sorted({f"{reply.error}: {reply.details[:150]}" for reply in unexpected})[:3]:
            self.result.violations.append(f"{len(unexpected)} calls failed: {text}")
        mixed = sum(reply.model == "?" for reply in replies)
        if mixed:
            self.result.violations.append(f"{mixed} answers are no model's")
        longest = max((reply.seconds for reply in replies), default=0.0)
        counts = ", ".join(f"{n} {code}" for code, n in self.clients.errors().items())
        self.result.calls = f"{len(replies) - len(failed)} answered{', ' if counts else ''}{counts}"
        self.result.calls += f"; longest {longest:.1f} s"

    def _power_cut(self) -> None:
        rig = self.rig
        rig.kill(rig.emulator)
        rig.kill(rig.daemon)
        if not within(lambda: not rig.strays(), PATIENCE):
            self.result.violations += [f"after a power cut it lives: {s}" for s in rig.strays()]
        rig.start_emulator()
        rig.start_daemon()
        if not within(lambda: self.checker.serves() == "b", PATIENCE):
            self.result.violations.append(
                f"b was dropped and served; after a power cut, {self.checker.serves()} does"
            )
        if len(rig.containers()) != 1:
            self.result.violations.append(f"{len(rig.containers())} containers run")

    def _finish(self) -> None:
        rig = self.rig
        status = _end(rig)
        if status != 0:
            self.result.violations.append(f"ended with status {status} when asked to")
        rig.kill(rig.emulator)
        self.result.violations += [f"left behind: {stray}" for stray in rig.strays()]
        self.result.violations += self.checker.unexplained() + self.again.litter()
        more = files_of(rig.state) - self.ground.files
        more = {name for name in more if not name.startswith("quarantine/")}
        if more and self.case.deed is not Deed.FLIP_MODEL:
            self.result.violations.append(f"left in the state folder: {sorted(more)}")


def _checker(rig: Rig, bundle: Path, model: str, question: Question, answers: dict) -> Checker:
    return Checker(rig.socket, rig.drop, bundle.name, model, question, answers)


def _end(rig: Rig) -> int:
    """Ask the daemon to end; its status."""
    assert rig.daemon is not None
    rig.daemon.terminate()
    try:
        return rig.daemon.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failure("edged does not end when asked to") from None


def _short(status: str) -> str:
    """The first line, without the time."""
    line = status.partition("\n")[0]
    return "serving" if line.startswith("serving since ") else line[:160]


def _flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def _flip_in_memory(pid: int) -> None:
    """One bit of the program image in the memory that daemon and device share."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "memfd:" not in line:
            continue
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            content = memory.read(end - start)
            place = content.find(b"EDGEIMG\0")
            if place >= 0:
                memory.seek(start + place + 2000)
                memory.write(bytes([content[place + 2000] ^ 1]))
                return
    raise Failure("no program image is in shared memory")


def _model_blob(state: Path, models: Models) -> Path:
    """The file below *state* that has the model of bundle a: the largest that b has not."""
    a, b = _members(models.a), _members(models.b)
    content = max(a - b, key=len)
    return next(p for p in state.rglob("*") if p.is_file() and p.read_bytes() == content)


def _members(bundle: Path) -> set[bytes]:
    with tarfile.open(bundle) as archive:
        files = [archive.extractfile(member) for member in archive.getmembers()]
        return {file.read() for file in files if file is not None}


def _small_disk(folder: Path) -> ExitStack:
    """A file system of 4 MiB at *folder*, until the context ends."""
    stack = ExitStack()
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"cannot mount a small disk, which only root may: {done.stderr.strip()}")
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return stack


def _fill(folder: Path, kib: int) -> None:
    """Leave *kib* KiB free."""
    page = 4096
    with (folder / "ballast").open("wb") as ballast:
        while (free := shutil.disk_usage(folder).free - kib * 1024) > 0:
            ballast.write(bytes(max(page, free // 2 // page * page)))
            ballast.flush()


def _downgrade(state: Path) -> None:
    """Make the catalogue one of schema 1."""
    with closing(sqlite3.connect(state / "catalogue.db", isolation_level=None)) as db:
        db.executescript(
            """
            ALTER TABLE bundles RENAME TO newer;
            CREATE TABLE bundles (
                digest TEXT PRIMARY KEY,
                added REAL NOT NULL,
                attempts INTEGER NOT NULL DEFAULT 0,
                set_aside TEXT
            ) STRICT;
            INSERT INTO bundles SELECT digest, added, attempts, set_aside FROM newer;
            DROP TABLE newer;
            ALTER TABLE commits RENAME TO new;
            CREATE TABLE commits (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                digest TEXT NOT NULL REFERENCES bundles (digest),
                at REAL NOT NULL
            ) STRICT;
            INSERT INTO commits SELECT id, digest, at FROM new;
            DROP TABLE new;
            DROP TABLE settings;
            PRAGMA user_version = 1;
            """
        )
