"""Models that keep their data in other files: taken together, in any order, and never parted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from intake.folder import (
    NEVER,
    Acceptor,
    rescans,
    running,
    status,
    until,
    until_status,
)
from patience import PATIENCE

from edged.errors import BundleError, IncompleteError, LimitError
from edged.intake import Arrival, Tell


class Reader(Acceptor):
    """Takes models that say which data they need, as ``needs a b``, and whether they are good.

    Attributes:
        pairs: what was read of each that was accepted: the model, and its data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[bytes, ...]] = []

    def _begin(self, path: Path, tell: Tell) -> None:
        arrival = self.arrivals[-1]
        text = path.read_bytes()
        wanted = text.decode().partition("needs ")[2].split()
        if set(wanted) - set(arrival.data) or not all((path.parent / w).is_file() for w in wanted):
            raise IncompleteError(f"cannot read {path.name}: its data are elsewhere", wanted)
        self.answer(path, tell)
        self.taken.append((path.name, text))
        self.pairs.append((text, *((path.parent / name).read_bytes() for name in wanted)))


@pytest.fixture
async def reader() -> Reader:
    return Reader()


def left(drop: Path) -> set[str]:
    return {str(path.relative_to(drop)) for path in drop.rglob("*") if path.is_file()}


MODEL = b"needs net.onnx.data"


@pytest.mark.parametrize("order", ["model first", "data first", "together"])
async def test_a_pair_is_taken_together_in_any_order(
    drop: Path, reader: Reader, order: str
) -> None:
    async with running(drop, reader):
        if order != "data first":
            (drop / "net.onnx").write_bytes(MODEL)
        if order == "model first":
            told = await until_status(drop, "net.onnx", "waiting for net.onnx.data")
            assert "in which net.onnx keeps its weights; copy it here too" in told
        (drop / "net.onnx.data").write_bytes(b"weights")
        if order == "data first":
            told = await until_status(drop, "net.onnx.data", "waiting: it is data")
            assert "together with the .onnx file that names it" in told
            (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "serving")
        await until(lambda: left(drop) == {"net.onnx.status.txt"})
    assert reader.pairs == [(MODEL, b"weights")]


async def test_several_data_files_and_one_in_a_folder(drop: Path, reader: Reader) -> None:
    async with running(drop, reader, rescan_seconds=0.05):
        (drop / "net.onnx").write_bytes(b"needs a b parts/c")
        await until_status(drop, "net.onnx", "waiting for a, b, parts/c,")
        (drop / "a").write_bytes(b"1")
        (drop / "b").write_bytes(b"2")
        await until_status(drop, "net.onnx", "waiting for parts/c,")
        (drop / "parts").mkdir()
        (drop / "parts" / "c").write_bytes(b"3")
        await until_status(drop, "net.onnx", "serving")
        await until(lambda: left(drop) == {"net.onnx.status.txt"} and not (drop / "parts").exists())
    assert reader.pairs == [(b"needs a b parts/c", b"1", b"2", b"3")]


async def test_data_that_grow_are_waited_for(drop: Path, reader: Reader) -> None:
    async with running(drop, reader, rescan_seconds=0.05):
        with (drop / "net.onnx.data").open("wb", buffering=0) as file:
            file.write(b"wei")
            (drop / "net.onnx").write_bytes(MODEL)
            told = await until_status(drop, "net.onnx", "waiting for the copy of net.onnx.data")
            assert "to finish" in told
            file.write(b"ghts")
        await until_status(drop, "net.onnx", "serving")
    assert reader.pairs == [(MODEL, b"weights")]


async def test_what_never_comes_is_waited_for_no_longer_than_said(
    drop: Path, reader: Reader
) -> None:
    async with running(drop, reader, rescan_seconds=0.05, data_seconds=0.2):
        (drop / "net.onnx").write_bytes(b"needs here gone")
        (drop / "here").write_bytes(b"1")
        told = await until_status(drop, "net.onnx", "rejected")
        assert "it keeps its weights in gone, and that did not come within 0.2 s" in told
        assert "moved to rejected/net.onnx, with here" in told
        await until(lambda: not (drop / "here").exists())
        # Others are served meanwhile and afterwards.
        (drop / "other.onnx").write_bytes(b"whole")
        await until_status(drop, "other.onnx", "serving")
    assert (drop / "rejected" / "here").read_bytes() == b"1"


def refuse(path: Path, _tell: Tell) -> None:
    raise BundleError(f"cannot read {path.name}: bad")


async def test_a_rejected_pair_stays_together(drop: Path, reader: Reader) -> None:
    reader.answer = refuse
    async with running(drop, reader):
        for content in (b"one", b"two"):
            (drop / "net.onnx.data").write_bytes(content)
            (drop / "net.onnx").write_bytes(MODEL)
            await until(lambda: (drop / "net.onnx").exists() is False)
            await until(lambda: not (drop / "net.onnx.data").exists())
        told = await until_status(drop, "net.onnx", "rejected")
        await until(lambda: "moved to rejected/net-2/net.onnx" in status(drop, "net.onnx"))
    assert "with net.onnx.data" in told
    rejected = drop / "rejected"
    assert left(rejected) == {
        "net.onnx",
        "net.onnx.data",
        "net.onnx.reason.txt",
        "net-2/net.onnx",
        "net-2/net.onnx.data",
        "net-2/net.onnx.reason.txt",
    }
    assert (rejected / "net.onnx.data").read_bytes() == b"one"
    assert (rejected / "net-2" / "net.onnx.data").read_bytes() == b"two"


async def test_a_slow_copy_of_the_data_brings_the_pair_back(
    drop: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over SMB, where nobody sees that a file is still open."""
    monkeypatch.setattr("edged.intake._intake.is_being_written", lambda _dropped: False)

    def read(path: Path, _tell: Tell) -> None:
        if (path.parent / "net.onnx.data").read_bytes() != b"weights":
            raise BundleError("cannot read net.onnx: its data are cut short")

    reader.answer = read
    async with running(drop, reader, rescan_seconds=0.05):
        (drop / "net.onnx").write_bytes(MODEL)
        with (drop / "net.onnx.data").open("wb", buffering=0) as copy:
            copy.write(b"wei")
            await until_status(drop, "net.onnx", "rejected: cannot read net.onnx: its data are cut")
            await until(lambda: not (drop / "net.onnx.data").exists())
            copy.write(b"ghts")
            await until_status(drop, "net.onnx", "serving")
        await until(lambda: left(drop) == {"net.onnx.status.txt"})
    assert reader.pairs == [(MODEL, b"weights")]


async def test_data_that_grow_while_their_model_is_at_work_are_tried_whole(
    drop: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.intake._intake.is_being_written", lambda _dropped: False)

    def read(path: Path, _tell: Tell) -> None:
        data = path.parent / "net.onnx.data"
        if data.read_bytes() != b"weights":
            data.write_bytes(b"weights")  # the rest of the copy comes before the answer
            raise BundleError("cannot read net.onnx: its data are cut short")

    reader.answer = read
    async with running(drop, reader):
        (drop / "net.onnx.data").write_bytes(b"wei")
        (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "serving")
        await until(lambda: left(drop) == {"net.onnx.status.txt"})
    assert reader.pairs == [(MODEL, b"weights")]


async def test_two_models_may_share_their_data(drop: Path, reader: Reader) -> None:
    async with running(drop, reader):
        reader.hold.clear()
        (drop / "all.data").write_bytes(b"weights")
        (drop / "a.onnx").write_bytes(b"a needs all.data")
        await until(lambda: reader.pairs)
        (drop / "b.onnx").write_bytes(b"b needs all.data")
        await until_status(drop, "b.onnx", "waiting for a.onnx")
        reader.hold.set()
        await until_status(drop, "b.onnx", "serving")
        await until(lambda: left(drop) == {"a.onnx.status.txt", "b.onnx.status.txt"})
    assert [pair[1] for pair in reader.pairs] == [b"weights"] * 2


async def test_a_rejected_model_leaves_the_data_that_another_wants(
    drop: Path, reader: Reader
) -> None:
    def bad(path: Path, _tell: Tell) -> None:
        if path.name == "bad.onnx":
            raise BundleError("cannot read bad.onnx: bad")

    reader.answer = bad
    async with running(drop, reader):
        (drop / "good.onnx").write_bytes(b"needs all.data more.data")
        await until_status(drop, "good.onnx", "waiting for")
        (drop / "all.data").write_bytes(b"weights")
        (drop / "bad.onnx").write_bytes(b"needs all.data")
        await until_status(drop, "bad.onnx", "rejected")
        assert (drop / "rejected" / "all.data").read_bytes() == b"weights"
        assert (drop / "all.data").read_bytes() == b"weights"
        (drop / "more.data").write_bytes(b"m")
        await until_status(drop, "good.onnx", "serving")
    assert reader.pairs == [(b"needs all.data more.data", b"weights", b"m")]


async def test_a_new_pair_while_the_old_one_is_at_work(drop: Path, reader: Reader) -> None:
    async with running(drop, reader):
        reader.hold.clear()
        (drop / "net.onnx.data").write_bytes(b"old")
        (drop / "net.onnx").write_bytes(MODEL)
        await until(lambda: reader.running)
        for name, content in (("net.onnx.data", b"the new"), ("net.onnx", b"new " + MODEL)):
            (drop / f".{name}").write_bytes(content)
            (drop / f".{name}").rename(drop / name)
        reader.hold.set()
        await until(lambda: len(reader.pairs) == 2)
        await until(lambda: left(drop) == {"net.onnx.status.txt"})
    assert reader.pairs == [(MODEL, b"old"), (b"new " + MODEL, b"the new")]


async def test_data_that_change_before_their_model_is_taken_settle_first(
    drop: Path, reader: Reader
) -> None:
    async with running(drop, reader, rescan_seconds=0.05):
        reader.hold.clear()
        (drop / "first.onnx").write_bytes(b"first")
        await until(lambda: reader.running)
        reader.arrivals.clear()
        (drop / "net.onnx.data").write_bytes(b"old")
        (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "waiting for first.onnx")
        (drop / "net.onnx.data").write_bytes(b"newer")
        reader.hold.set()
        await until_status(drop, "net.onnx", "serving")
    assert reader.pairs[-1] == (MODEL, b"newer")


async def test_a_model_that_is_taken_away_leaves_its_data_waiting(
    drop: Path, reader: Reader
) -> None:
    async with running(drop, reader, rescan_seconds=0.05):
        (drop / "a.data").write_bytes(b"1")
        (drop / "net.onnx").write_bytes(b"needs a.data b.data")
        await until_status(drop, "net.onnx", "waiting for b.data")
        (drop / "net.onnx").unlink()
        await until(lambda: not status(drop, "net.onnx"))
        await until_status(drop, "a.data", "waiting: it is data")
    assert left(drop) == {"a.data", "a.data.status.txt"}


async def test_the_wait_goes_on_after_a_restart(drop: Path, reader: Reader) -> None:
    async with running(drop, reader):
        (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "waiting for net.onnx.data")
    (drop / "net.onnx.data").write_bytes(b"weights")
    async with running(drop, reader):
        await until_status(drop, "net.onnx", "serving")
        await until(lambda: left(drop) == {"net.onnx.status.txt"})


async def test_whoever_names_the_same_data_again_is_rejected(drop: Path, reader: Reader) -> None:
    def again(path: Path, _tell: Tell) -> None:
        raise IncompleteError(f"cannot read {path.name}: its data are elsewhere", ["net.onnx.data"])

    reader.answer = again
    async with running(drop, reader):
        (drop / "net.onnx.data").write_bytes(b"weights")
        (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "rejected: cannot read net.onnx: its data")


async def test_too_many_data_are_an_answer(drop: Path, reader: Reader) -> None:
    def many(_path: Path, _tell: Tell) -> None:
        raise LimitError("cannot read net.onnx: its data are in 5000 files")

    reader.answer = many
    async with running(drop, reader):
        (drop / "net.onnx").write_bytes(b"x")
        await until_status(drop, "net.onnx", "rejected: cannot read net.onnx: its data are in 5000")


DIES_REJECTING = """
import asyncio, sys
from pathlib import Path
from edged.errors import BundleError, IncompleteError
from edged.intake import Intake

async def accept(arrival, tell):
    if not arrival.data:
        raise IncompleteError("cannot read: its data are elsewhere", ["net.onnx.data"])
    raise BundleError("cannot read: bad")

async def main():
    drop = Path(sys.argv[1])
    await Intake(drop, accept, settle_seconds=0.01, rescan_seconds=0.02).start()
    while (drop / "net.onnx").exists() or (drop / "net.onnx.data").exists():
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.parametrize("place", ["intake.rejecting", "intake.moved"])
def test_a_pair_is_never_parted_by_a_power_cut(drop: Path, place: str) -> None:
    drop.mkdir()
    (drop / "net.onnx").write_bytes(MODEL)
    (drop / "net.onnx.data").write_bytes(b"weights")
    words = [sys.executable, "-c", DIES_REJECTING, str(drop)]
    environment = {**os.environ, "EDGED_FAULT": place}
    done = subprocess.run(words, env=environment, timeout=PATIENCE, check=False)
    assert done.returncode == 86
    together = [
        folder
        for folder in (drop, drop / "rejected")
        if (folder / "net.onnx").exists() and (folder / "net.onnx.data").exists()
    ]
    assert together
    if place == "intake.rejecting":
        assert subprocess.run(words, timeout=PATIENCE, check=False).returncode == 0
        assert left(drop / "rejected") == {"net.onnx", "net.onnx.data", "net.onnx.reason.txt"}


async def test_nothing_is_lost_when_links_cannot_be_made(
    drop: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    reader.answer = refuse
    async with running(drop, reader):
        (drop / "net.onnx.data").write_bytes(b"weights")
        (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "rejected")
    assert (drop / "rejected" / "net.onnx.data").read_bytes() == b"weights"


async def test_a_model_in_one_file_is_asked_for_once(drop: Path, reader: Reader) -> None:
    async with running(drop, reader) as intake:
        (drop / "net.onnx").write_bytes(b"whole")
        await until_status(drop, "net.onnx", "serving")
        await rescans(drop, intake)
    assert reader.arrivals == [Arrival(drop / "net.onnx", "net.onnx", "net")]


async def test_waiting_for_data_holds_up_nobody(drop: Path, reader: Reader) -> None:
    async with running(drop, reader, data_seconds=NEVER):
        (drop / "net.onnx").write_bytes(MODEL)
        await until_status(drop, "net.onnx", "waiting for net.onnx.data")
        (drop / "other.onnx").write_bytes(b"whole")
        await until_status(drop, "other.onnx", "serving")
        (drop / "net.onnx.data").write_bytes(b"weights")
        await until_status(drop, "net.onnx", "serving")
        await until(lambda: status(drop, "other.onnx").startswith("served from"))
