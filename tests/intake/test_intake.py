"""The drop folder, with real files: what is taken, what is left alone, what people are told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from intake.folder import (
    NEVER,
    SINCE,
    Acceptor,
    rescans,
    running,
    status,
    until,
    until_status,
)
from patience import PATIENCE
from watchdog.observers.inotify import InotifyObserver

from edged.errors import (
    BundleError,
    DeviceLostError,
    IncompatibleError,
    KilledError,
    SandboxError,
    ShortageError,
    StoreError,
)
from edged.intake import Intake, Stored, Tell
from edged.intake._folder import end_work
from edged.remarks import Code, remark


async def test_dropped_file_is_taken_and_removed(drop, acceptor):
    async with running(drop, acceptor):
        (drop / "net-1.0.0.edgemodel").write_bytes(b"model")
        told = await until_status(drop, "net-1.0.0.edgemodel", "serving")
    assert acceptor.taken == [("net-1.0.0.edgemodel", b"model")]
    assert told.splitlines()[:2] == ["serving since 2026-11-22 18:44:05 UTC", "net-1.0.0"]
    assert sorted(path.name for path in drop.iterdir()) == ["net-1.0.0.edgemodel.status.txt"]


async def test_an_intake_that_was_stopped_does_nothing_more(drop, acceptor, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()

    def end_slowly(folder):
        asked.set()
        assert go_on.wait(PATIENCE)
        end_work(folder)

    monkeypatch.setattr("edged.intake._intake.end_work", end_slowly)
    async with running(drop, acceptor) as intake:
        (drop / "net.onnx").write_bytes(b"model")
        await until(asked.is_set)
        stopping = asyncio.create_task(intake.stop())
        done, _ = await asyncio.wait({stopping}, timeout=1)
        assert not done
        go_on.set()
        await stopping
        assert [path.name for path in drop.iterdir()] == ["net.onnx.status.txt"]


async def test_bare_model_is_taken_whatever_the_case_of_its_name(drop, acceptor):
    async with running(drop, acceptor):
        (drop / "NET.ONNX").write_bytes(b"model")
        await until_status(drop, "NET.ONNX", "serving")
    assert acceptor.names == ["NET.ONNX"]


async def test_file_that_is_renamed_into_place_is_taken(drop, acceptor):
    async with running(drop, acceptor):
        (drop / ".net.onnx.a1B2c3").write_bytes(b"model")
        (drop / ".net.onnx.a1B2c3").rename(drop / "net.onnx")
        await until_status(drop, "net.onnx", "serving")
    assert acceptor.taken == [("net.onnx", b"model")]


async def test_file_moved_in_from_elsewhere_with_an_old_time_is_taken(drop, acceptor, tmp_path):
    other = tmp_path / "net.onnx"
    other.write_bytes(b"model")
    os.utime(other, (0, 0))
    async with running(drop, acceptor):
        other.rename(drop / "net.onnx")
        await until_status(drop, "net.onnx", "serving")


async def test_file_that_is_open_for_writing_is_left_alone_until_closed(drop, acceptor):
    async with running(drop, acceptor, rescan_seconds=0.05) as intake:
        with (drop / "net.onnx").open("wb", buffering=0) as file:
            _need_leases(drop / "net.onnx")
            file.write(b"half ")
            await until_status(drop, "net.onnx", "waiting for the copy to finish")
            # The file has been as quiet as one that came later and settled since.
            await rescans(drop, intake)
            assert acceptor.taken == []
            file.write(b"whole")
        await until_status(drop, "net.onnx", "serving")
    assert acceptor.taken == [("net.onnx", b"half whole")]


async def test_file_that_grows_without_a_writer_in_sight_is_left_alone(drop, acceptor):
    """As over NFS: each chunk is written by somebody who is not there when one looks."""
    whole = os.urandom(10 * 1000)
    async with running(drop, acceptor, rescan_seconds=0.02, settle_seconds=2.0):
        for start in range(0, len(whole), 1000):
            with (drop / "net.onnx").open("ab") as file:
                file.write(whole[start : start + 1000])
            await asyncio.sleep(0.06)  # the pace of the copy, far shorter than what is settled
        await until_status(drop, "net.onnx", "serving")
    assert acceptor.taken == [("net.onnx", whole)]


async def test_hidden_and_temporary_names_are_ignored(drop, acceptor):
    names = {
        ".net.onnx",
        ".net.onnx.a1B2c3",
        "net.onnx.part",
        "net.onnx.filepart",
        "net.onnx.tmp",
        "net.onnx.crdownload",
        "net.onnx~",
        "~$net.onnx",
        "net.onnx.status.txt",
        "Thumbs.db",
    }
    drop.mkdir()
    for name in names:
        (drop / name).write_bytes(b"x")
    async with running(drop, acceptor) as intake:
        await rescans(drop, intake)
        assert acceptor.taken == []
    assert {path.name for path in drop.iterdir()} == names


async def test_what_is_no_file_stays_and_is_named(drop, acceptor, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"secret")
    drop.mkdir()
    (drop / "link.onnx").symlink_to(tmp_path / "elsewhere")
    (drop / "folder.onnx").mkdir()
    os.mkfifo(drop / "pipe.onnx")
    async with running(drop, acceptor):
        assert "a symbolic link; copy the file itself" in await until_status(
            drop, "link.onnx", "ignored"
        )
        assert "an empty folder" in await until_status(drop, "folder.onnx", "ignored")
        assert "a pipe, socket or device" in await until_status(drop, "pipe.onnx", "ignored")
    assert acceptor.taken == []


async def test_other_files_stay_and_their_owner_is_told(drop, acceptor):
    async with running(drop, acceptor):
        (drop / "net.tflite").write_bytes(b"x")
        told = await until_status(drop, "net.tflite", "ignored")
        assert "--tflite net.tflite --output net.onnx" in told
        (drop / "net.tflite").unlink()
        await until(lambda: not status(drop, "net.tflite"))
        (drop / "net.what").write_bytes(b"x")
        told = await until_status(drop, "net.what", "ignored")
        assert ".edgemodel and .onnx" in told
    assert acceptor.taken == []


def refuse(path: Path, tell: Tell) -> None:
    raise BundleError(f"cannot read {path.name}: no manifest in it, wanted one")


async def test_rejected_file_is_kept_with_its_reason(drop, acceptor):
    acceptor.answer = refuse
    drop.mkdir()
    drop.chmod(0o2775)
    async with running(drop, acceptor):
        (drop / "net.edgemodel").write_bytes(b"one")
        told = await until_status(drop, "net.edgemodel", "rejected")
        assert told.startswith("rejected: cannot read net.edgemodel: no manifest in it")
        assert "moved to rejected/net.edgemodel\n" in told
        (drop / "net.edgemodel").write_bytes(b"two")
        await until(lambda: "moved to rejected/net-2.edgemodel" in status(drop, "net.edgemodel"))
    rejected = drop / "rejected"
    assert rejected.stat().st_mode & 0o7777 == 0o2775  # to be cleared away by whoever may drop
    assert (rejected / "net.edgemodel").read_bytes() == b"one"
    assert (rejected / "net-2.edgemodel").read_bytes() == b"two"
    reason = (rejected / "net-2.edgemodel.reason.txt").read_text()
    assert reason == "rejected: cannot read net.edgemodel: no manifest in it, wanted one\n"
    assert [path.name for path in drop.iterdir() if path.is_file()] == ["net.edgemodel.status.txt"]


async def test_a_copy_that_goes_on_after_its_beginning_was_rejected_is_taken_whole(
    drop, acceptor
) -> None:
    # As smbd has it open for somebody: edged, without CAP_LEASE, cannot tell.
    def read(path: Path, _tell: Tell) -> None:
        if path.read_bytes() != b"whole":
            raise BundleError("cannot read: it ends early")

    acceptor.answer = read
    async with running(drop, acceptor, rescan_seconds=0.05):
        (drop / "rejected").mkdir(parents=True)
        with (drop / "net.onnx").open("wb", buffering=0) as copy, unseen_writers():
            copy.write(b"wh")
            told = await until_status(drop, "net.onnx", "rejected")
            assert "it ends early\nmoved to rejected/net.onnx" in told
            copy.write(b"ole")
            await until_status(drop, "net.onnx", "serving")
        # What is of another name there, and what another took the name of, stays.
        (drop / "bad.onnx").write_bytes(b"bad")
        await until_status(drop, "bad.onnx", "rejected")
        (drop / "bad.onnx").write_bytes(b"whole")
        await until_status(drop, "bad.onnx", "serving")
    assert [path.name for path in sorted((drop / "rejected").iterdir())] == [
        "bad.onnx",
        "bad.onnx.reason.txt",
    ]
    assert acceptor.taken[1] == ("net.onnx", b"whole")


@contextlib.contextmanager
def unseen_writers() -> Iterator[None]:
    """Without leases, as on files of others for whoever has no CAP_LEASE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edged.intake._intake.is_being_written", lambda _dropped: False)
        yield


async def test_error_inside_edged_rejects_the_file_and_the_next_is_taken(drop, acceptor, caplog):
    def fail(path: Path, tell: Tell) -> None:
        if path.name == "bad.onnx":
            raise ZeroDivisionError

    acceptor.answer = fail
    async with running(drop, acceptor):
        (drop / "bad.onnx").write_bytes(b"x")
        await until_status(drop, "bad.onnx", "rejected: cannot take bad.onnx: an error inside")
        (drop / "good.onnx").write_bytes(b"x")
        await until_status(drop, "good.onnx", "serving")
    assert "ZeroDivisionError" in caplog.text


async def test_too_large_a_file_is_rejected_unread(drop, acceptor):
    async with running(drop, acceptor, max_file_bytes=1000):
        with (drop / "net.onnx").open("wb") as file:
            file.truncate(1001)
        told = await until_status(drop, "net.onnx", "rejected")
    assert "1001 bytes, more than the limit of 1000" in told
    assert acceptor.taken == []


async def test_progress_is_told_and_the_last_word_stays(drop, acceptor):
    late: list[Tell] = []

    def work(_path: Path, tell: Tell) -> None:
        late.append(tell)
        tell("compiling", 0.4)

    acceptor.answer = work
    acceptor.hold.clear()
    async with running(drop, acceptor):
        (drop / "net.onnx").write_bytes(b"x")
        told = await until_status(drop, "net.onnx", "compiling")
        assert told.splitlines()[0] == "compiling 40 %"
        acceptor.hold.set()
        await until_status(drop, "net.onnx", "serving")
        late[0]("compiling", 0.5)
        (drop / "next.onnx").write_bytes(b"x")
        await until_status(drop, "next.onnx", "serving")
        assert not status(drop, "net.onnx").startswith("compiling")


async def test_files_are_taken_one_at_a_time_in_order_of_arrival(drop, acceptor):
    drop.mkdir()
    for age, name in enumerate(["b.onnx", "c.onnx", "a.onnx"]):
        (drop / name).write_bytes(b"x")
        os.utime(drop / name, (1000 + age, 1000 + age))
    acceptor.hold.clear()
    async with running(drop, acceptor):
        await until_status(drop, "a.onnx", "waiting for ")
        acceptor.hold.set()
        await until_status(drop, "a.onnx", "serving")
    assert acceptor.names == ["b.onnx", "c.onnx", "a.onnx"]


async def test_model_that_was_replaced_is_not_said_to_serve(drop, acceptor):
    async with running(drop, acceptor):
        (drop / "old.onnx").write_bytes(b"x")
        await until_status(drop, "old.onnx", "serving since")
        (drop / "new.onnx").write_bytes(b"x")
        await until_status(drop, "new.onnx", "serving since")
        assert status(drop, "old.onnx").startswith("served from 2026-11-22 18:44:05 UTC to ")
        assert "new took its place" in status(drop, "old.onnx")


async def test_newer_file_of_the_same_name_is_taken_next(drop, acceptor):
    acceptor.hold.clear()
    async with running(drop, acceptor):
        (drop / "net.onnx").write_bytes(b"one")
        await until(lambda: acceptor.running)
        (drop / "net.onnx").unlink()
        (drop / "net.onnx").write_bytes(b"second")
        acceptor.hold.set()
        await until(lambda: len(acceptor.taken) == 2 and not (drop / "net.onnx").exists())
        await until_status(drop, "net.onnx", "serving")
    assert acceptor.taken == [("net.onnx", b"one"), ("net.onnx", b"second")]


async def test_file_that_vanishes_before_it_is_whole_leaves_nothing(drop, acceptor):
    async with running(drop, acceptor, settle_seconds=NEVER, rescan_seconds=0.05):
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", "waiting")
        (drop / "net.onnx").unlink()
        await until(lambda: not list(drop.iterdir()))
    assert acceptor.taken == []


async def test_file_that_vanishes_at_work_is_no_rejection(drop, acceptor):
    def vanish(path: Path, tell: Tell) -> None:
        path.unlink()
        refuse(path, tell)

    acceptor.answer = vanish
    async with running(drop, acceptor) as intake:
        (drop / "net.onnx").write_bytes(b"x")
        await until(lambda: acceptor.taken)
        await rescans(drop, intake)
        await until(lambda: not status(drop, "net.onnx"))
    assert not list((drop / "rejected").iterdir())


async def test_file_that_is_taken_away_at_work_is_called_off(drop, acceptor):
    acceptor.hold.clear()
    async with running(drop, acceptor):
        (drop / "net.onnx").write_bytes(b"x")
        await until(lambda: acceptor.running)
        (drop / "net.onnx").unlink()
        await until(lambda: not acceptor.running)
        await until(lambda: not status(drop, "net.onnx"))
        acceptor.hold.set()
        (drop / "next.onnx").write_bytes(b"y")
        await until_status(drop, "next.onnx", "serving since")
    assert acceptor.names == ["net.onnx", "next.onnx"]
    assert not list(drop.glob("rejected/*"))


async def test_what_waiting_helps_is_tried_again(drop, acceptor):
    def lost_twice(_path: Path, _tell: Tell) -> None:
        if len(acceptor.taken) <= 2:
            raise DeviceLostError("cannot load: the device is gone")

    acceptor.answer = lost_twice
    async with running(drop, acceptor, retry_seconds=0.2):
        (drop / "net.onnx").write_bytes(b"x")
        told = await until_status(drop, "net.onnx", "waiting: cannot load: the device is gone")
        assert "next in " in told
        await until_status(drop, "net.onnx", "serving")
    assert acceptor.names == ["net.onnx"] * 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SandboxError("cannot confine processes: no bubblewrap"), "cannot confine processes"),
        (StoreError("cannot store net: Read-only file system"), "cannot store net: Read-only"),
        (ShortageError("cannot store net: no space is left"), "cannot store net: no space"),
        (KilledError("cannot start the container: killed"), "cannot start the container: killed"),
        (IncompatibleError("cannot use device: golden image"), "cannot use device"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "cannot take net.onnx at this"),
        (MemoryError(), "cannot take net.onnx at this moment: there is too little memory"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_fault_of_the_machine_is_no_fault_of_the_file(drop, acceptor, error, said):
    def fails_once(_path: Path, _tell: Tell) -> None:
        if len(acceptor.taken) == 1:
            raise error

    acceptor.answer = fails_once
    async with running(drop, acceptor, retry_seconds=0.2):
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", f"waiting: {said}")
        await until_status(drop, "net.onnx", "serving")
    assert not list(drop.glob("rejected/*"))


async def test_postponed_file_does_not_overtake_a_later_one(drop, acceptor):
    def lost(path: Path, _tell: Tell) -> None:
        if path.name == "old.onnx":
            raise DeviceLostError("cannot load: the device is gone")

    acceptor.answer = lost
    async with running(drop, acceptor, retry_seconds=NEVER):
        (drop / "old.onnx").write_bytes(b"x")
        await until_status(drop, "old.onnx", "waiting: cannot load")
        (drop / "new.onnx").write_bytes(b"x")
        await until_status(drop, "new.onnx", "serving")
        told = await until_status(drop, "old.onnx", "rejected")
    assert "new.onnx was dropped after it" in told
    assert (drop / "rejected" / "old.onnx").exists()


async def test_file_at_work_is_taken_up_again_after_a_restart(drop, acceptor):
    acceptor.hold.clear()
    async with running(drop, acceptor):
        (drop / "net.onnx").write_bytes(b"x")
        await until(lambda: acceptor.running)
    assert status(drop, "net.onnx").startswith("interrupted")
    acceptor.hold.set()
    async with running(drop, acceptor):
        await until_status(drop, "net.onnx", "serving")
    assert acceptor.names == ["net.onnx"] * 2


async def test_restart_forgets_what_was_unfinished_and_keeps_the_rest(drop, acceptor):
    signature = "edged, 2026-11-22 18:44:05 UTC"
    drop.mkdir()
    (drop / "gone.onnx.status.txt").write_text(f"loading\n{signature}\n")
    (drop / "done.onnx.status.txt").write_text(f"rejected: cannot …\n{signature}\n")
    (drop / "mine.status.txt").write_text("somebody's own notes\n")
    async with running(drop, acceptor) as intake:
        await rescans(drop, intake)
    assert sorted(path.name for path in drop.iterdir()) == [
        "done.onnx.status.txt",
        "mine.status.txt",
    ]


async def test_status_is_made_true_after_a_restart(drop, acceptor):
    async with running(drop, acceptor):
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", "serving")
    later = SINCE.replace(hour=20)
    async with running(drop, acceptor) as intake:
        intake.serving("net", later)
        await until_status(drop, "net.onnx", "serving since 2026-11-22 20:44:05 UTC\nnet\n")


async def test_rescan_finds_what_no_event_announced(drop, acceptor, monkeypatch, caplog):
    def start(_self: InotifyObserver) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(InotifyObserver, "start", start)
    async with running(drop, acceptor, rescan_seconds=0.05):
        for name in ("a.onnx", "b.onnx"):
            (drop / name).write_bytes(b"x")
            await until_status(drop, name, "serving")
    assert caplog.text.count("inotify instance limit reached") == 1


async def test_folder_that_went_away_and_came_back_is_watched_again(drop, acceptor, caplog):
    async with running(drop, acceptor, rescan_seconds=0.05):
        shutil.rmtree(drop)
        await until(lambda: "cannot take models from" in caplog.text)
        drop.mkdir()
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", "serving")
    assert caplog.text.count("cannot take models from") == 1


async def test_folder_that_cannot_be_made_is_logged_once_and_ends_nothing(
    acceptor, tmp_path, caplog
):
    (tmp_path / "file").touch()
    intake = Intake(tmp_path / "file" / "drop", acceptor, rescan_seconds=0.02)
    await intake.start()
    await until(lambda: "cannot take models from" in caplog.text)
    (tmp_path / "file").unlink()
    (tmp_path / "file" / "drop").mkdir(parents=True)
    (tmp_path / "file" / "drop" / "net.onnx").write_bytes(b"x")
    await until_status(tmp_path / "file" / "drop", "net.onnx", "serving")
    await intake.stop()
    assert caplog.text.count("Not a directory") == 1


async def test_error_in_the_intake_itself_does_not_end_it(drop, acceptor, monkeypatch, caplog):
    def fail(_folder: Path) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr("edged.intake._intake.look", fail)
    async with running(drop, acceptor, rescan_seconds=0.05):
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", "serving")
    assert "ZeroDivisionError" in caplog.text


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that this process, without privileges for the time being, can read but not write."""
    folder = Path(tempfile.mkdtemp(prefix="edged-drop-"))
    (folder / "net.onnx").write_bytes(b"x")
    folder.chmod(0o555)
    nobody = 65534
    if os.geteuid() == 0:
        os.seteuid(nobody)
    yield folder
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def test_folder_that_cannot_be_written_does_not_loop(unprivileged, acceptor, caplog):
    async with running(unprivileged, acceptor, rescan_seconds=0.05):
        await until(lambda: "cannot move net.onnx out of the drop folder" in caplog.text)
        await until(lambda: "cannot write the status" in caplog.text)
    assert acceptor.names == ["net.onnx"]


async def test_names_that_are_no_text_are_no_trouble(drop, acceptor, caplog):
    # What is no text cannot be reported by one of several processes that run tests.
    caplog.set_level(logging.CRITICAL, "edged.intake")
    acceptor.answer = refuse
    name = os.fsdecode(b"n\xff\n.onnx")
    async with running(drop, acceptor):
        (drop / name).write_bytes(b"x")
        told = await until_status(drop, name, "rejected: cannot read n\\udcff")
    assert "moved to rejected/" in told
    assert (drop / "rejected" / name).read_bytes() == b"x"


def _need_leases(path: Path) -> None:
    """Skip where the file system cannot tell whether somebody writes."""
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return
        except OSError as error:
            pytest.skip(f"no read leases on this file system: {error}")
        raise AssertionError("a lease was given although the file is open for writing")


async def test_a_model_that_is_kept_for_later_is_in_nobodys_way(
    drop: Path, acceptor: Acceptor
) -> None:
    async with running(drop, acceptor) as intake:
        (drop / "old.onnx").write_bytes(b"old")
        await until_status(drop, "old.onnx", "serving since")
        acceptor.stored = Stored("new", "not activated, because edged is pinned")
        (drop / "new.onnx").write_bytes(b"new")
        text = await until_status(drop, "new.onnx", "stored; ")
        assert text.splitlines()[:2] == ["stored; not activated, because edged is pinned", "new"]
        assert not (drop / "new.onnx").exists()
        assert not (drop / "rejected").exists()
        assert status(drop, "old.onnx").startswith("serving since")

        intake.serving("new", SINCE)  # someone activated it
        await until_status(drop, "new.onnx", "serving since 2026-11-22 18:44:05 UTC\nnew\n")
        await until(lambda: "; new took its place" in status(drop, "old.onnx"))

        intake.serving("old", SINCE)  # and rolled back
        await until_status(drop, "old.onnx", "serving since 2026-11-22 18:44:05 UTC\nold\n")
        await until(lambda: "; old took its place" in status(drop, "new.onnx"))


async def test_a_model_that_was_replaced_before_its_file_was_told(
    drop: Path, acceptor: Acceptor
) -> None:
    async with running(drop, acceptor) as intake:
        # Between the end of the deployment and its last word somebody activates another.
        acceptor.answer = lambda path, _tell: asyncio.get_running_loop().call_soon(
            intake.serving, "other", SINCE
        )
        acceptor.hold.clear()
        acceptor.serving = lambda _model, _since: None
        (drop / "net.onnx").write_bytes(b"x")
        await until(lambda: acceptor.running)
        acceptor.hold.set()
        await until(lambda: "; other took its place" in status(drop, "net.onnx"))


async def test_a_stored_model_has_its_remarks_once_it_serves(
    drop: Path, acceptor: Acceptor
) -> None:
    remarks = (remark(Code.HOST_SHARE, "14 % stay"), remark(Code.COARSE_OUTPUT, "steps of 1"))
    acceptor.stored = Stored("net", "not activated")
    async with running(drop, acceptor) as intake:
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", "stored; ")
        for given in (remarks, remarks[1:], remarks):  # It may be compiled anew.
            intake.serving("net", SINCE, given)
            wanted = ["net", *(f"note: {each}" for each in given)]
            await until(lambda: status(drop, "net.onnx").splitlines()[1:-1] == wanted)  # noqa: B023
        intake.serving("other", SINCE)
        await until(lambda: status(drop, "net.onnx").splitlines()[1:-1] == ["net"])


async def test_what_was_replaced_stays_so_after_a_restart(drop: Path, acceptor: Acceptor) -> None:
    async with running(drop, acceptor) as intake:
        (drop / "new.onnx").write_bytes(b"new")
        await until_status(drop, "new.onnx", "serving since")
        intake.serving("old", SINCE)
        await until_status(drop, "new.onnx", "served from")
    async with running(drop, acceptor):
        assert status(drop, "new.onnx").startswith("served from")


TAKES_EDGED_DOWN = """
import asyncio, os, sys
from pathlib import Path
from edged.intake import Intake

async def accept(path, tell):
    os._exit(9)

async def main():
    drop = Path(sys.argv[1])
    await Intake(drop, accept, settle_seconds=0.01).start()
    while (drop / "net.edgemodel").exists():
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


def test_a_file_that_takes_edged_down_is_tried_three_times(drop: Path) -> None:
    drop.mkdir()
    (drop / "net.edgemodel").write_bytes(b"poison")

    def start() -> int:
        words = [sys.executable, "-c", TAKES_EDGED_DOWN, str(drop)]
        return subprocess.run(words, timeout=PATIENCE, check=False).returncode

    assert [start() for _ in range(4)] == [9, 9, 9, 0]
    reason = (drop / "rejected" / "net.edgemodel.reason.txt").read_text()
    assert reason.startswith("rejected: cannot take net.edgemodel: edged, or the machine, ended 3")

    # Dropped again it is another file, with a count of its own.
    (drop / "net.edgemodel").write_bytes(b"poison again")
    assert start() == 9
