"""The store as its users see it, and what it does when files are damaged."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edged.bundle import Digest, VerifiedBundle
from edged.errors import InputError, NotFoundError, StoreError
from edged.remarks import Code, remark, serialize
from edged.store import CompiledKey, Store

MakeBundle = Callable[..., VerifiedBundle]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with closing(Store(root)) as store:
        yield store


def blob_of(root: Path, digest: Digest) -> Path:
    return root / "blobs" / "sha256" / digest.hex


def quarantined(root: Path) -> dict[str, str]:
    """File name → the reason beside it."""
    return {
        file.name: (file.parent / "reason.txt").read_text()
        for file in sorted((root / "quarantine").glob("*/*"))
        if file.name != "reason.txt"
    }


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.problems == ()
    assert store.list() == []
    assert store.committed() is None
    assert store.last_good() is None
    with pytest.raises(NotFoundError, match="cannot find a model 'x'; in the store: none"):
        store.find("x")
    with pytest.raises(NotFoundError, match="cannot find bundle sha256:"):
        store.get(Digest.of(b""))


def test_add_get_and_find(store: Store, make_bundle: MakeBundle) -> None:
    old = store.add(make_bundle(version="1.9.0", serial=1))
    new = store.add(make_bundle(version="1.10.0", serial=2))
    other = store.add(make_bundle(name="other"))
    assert str(new) == "tiny 1.10.0"
    assert (new.attempts, new.set_aside) == (0, None)
    assert store.get(new.digest) == new
    assert store.find("tiny") == new
    assert store.find("tiny", "1.9.0") == old
    assert store.list() == [other, old, new]
    with pytest.raises(NotFoundError, match=r"'tiny 2.0.0'; in the store: other 1.0.0, tiny 1.9.0"):
        store.find("tiny", "2.0.0")


def test_adding_again_changes_nothing(store: Store, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    record = store.add(bundle)
    store.set_aside(record.digest, "it failed")
    again = store.add(bundle)
    assert (again.added, again.set_aside) == (record.added, "it failed")
    assert len(store.list()) == 1


def test_all_of_it_is_there_after_reopening(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    a, b = store.add(make_bundle("a")), store.add(make_bundle("b"))
    store.commit(a.digest)
    store.commit(b.digest)
    store.set_aside(a.digest, "cannot start: too old")
    store.begin_attempt(b.digest)
    store.close()
    with closing(Store(root)) as again:
        assert again.problems == ()
        assert [record.digest for record in again.list()] == [a.digest, b.digest]
        assert again.get(a.digest).set_aside == "cannot start: too old"
        assert again.get(b.digest).attempts == 1
        committed = again.committed()
        assert committed is not None and committed.digest == b.digest
        assert [commit.digest for commit in again.history()] == [b.digest, a.digest]


def test_committed_and_last_good(store: Store, make_bundle: MakeBundle) -> None:
    a, b, c = (store.add(make_bundle(name)).digest for name in "abc")
    for digest in (a, b, c, c):
        store.commit(digest)
    assert store.committed() == store.get(c)
    assert store.last_good() == store.get(b)
    store.set_aside(b, "it broke")
    assert store.last_good() == store.get(a)
    store.commit(b)  # it went well after all
    assert store.get(b).set_aside is None
    assert store.last_good() == store.get(c)
    with pytest.raises(NotFoundError):
        store.commit(Digest.of(b"unknown"))


def test_attempts_are_counted_until_one_goes_well(store: Store, make_bundle: MakeBundle) -> None:
    digest = store.add(make_bundle()).digest
    assert [store.begin_attempt(digest) for _ in range(3)] == [1, 2, 3]
    store.clear_attempts(digest)
    assert store.begin_attempt(digest) == 1
    with pytest.raises(NotFoundError):
        store.begin_attempt(Digest.of(b"unknown"))


def test_materialize(store: Store, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    record = store.add(bundle)
    shutil.rmtree(bundle.folder)
    into = store.scratch()
    store.materialize(record.digest, into)
    assert sorted(path.name for path in into.iterdir()) == ["manifest.json", "model.onnx"]
    assert (into / "model.onnx").read_bytes() == b"the model of tiny 1.0.0"
    assert (into / "manifest.json").read_bytes() == bundle.manifest.serialize()
    assert {path.stat().st_mode & 0o777 for path in into.iterdir()} == {0o444}


def test_scratch_is_private_on_the_same_file_system_and_emptied(store: Store, root: Path) -> None:
    one, two = store.scratch(), store.scratch()
    assert one != two
    assert one.stat().st_mode & 0o777 == 0o700
    assert one.stat().st_dev == root.stat().st_dev
    (one / "file").write_text("x")
    store.close()
    with closing(Store(root)):
        assert not one.exists() and not two.exists()


def test_compiled_models(store: Store, root: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    key = CompiledKey(store.add(make_bundle()).digest, "1", "16x32x4")
    assert store.compiled(key) is None
    output = tmp_path / "output"
    output.mkdir()
    (output / "program.img").write_bytes(b"image")
    folder = store.add_compiled(key, output)
    assert store.compiled(key) == folder
    assert (folder / "program.img").read_bytes() == b"image"
    assert (output / "program.img").exists()
    assert store.add_compiled(key, output) == folder
    for other in (
        CompiledKey(Digest.of(b"other"), "1", "16x32x4"),
        CompiledKey(key.bundle, "2", "16x32x4"),
        CompiledKey(key.bundle, "1", "8x8x4"),
        CompiledKey(key.bundle, "1", "16x32x4", abi=key.abi - 1),
    ):
        assert store.compiled(other) is None
    store.close()
    with closing(Store(root)) as again:
        assert again.compiled(key) == folder


def test_what_was_compiled_for_an_earlier_edged(
    store: Store, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Of ABI 1, whose keys did not say so; for another compiler; another array; never at all."""
    output = tmp_path / "output"
    output.mkdir()
    (output / "program.img").write_bytes(b"image")
    names = ("old", "newer", "good", "loaded", "elsewhere", "aside", "never")
    digests = {name: store.add(make_bundle(name)).digest for name in names}
    kept = {
        name: store.add_compiled(CompiledKey(digests[name], version, array), output)
        for name, version, array in (
            ("old", "1", "16x32x4"),
            ("newer", "1", "16x32x4"),
            ("good", "1", "16x32x4"),
            ("loaded", "2", "16x32x4"),
            ("elsewhere", "2", "8x8x4"),
            ("aside", "1", "16x32x4"),
        )
    }
    info = kept["old"] / ".info.json"
    told = json.loads(info.read_text())
    del told["key"]["abi"]
    info.chmod(0o644)
    info.write_text(json.dumps(told))
    store.commit(digests["good"])
    store.commit(digests["loaded"])
    store.set_aside(digests["aside"], "it crashes")

    def outdated() -> list[str]:
        return [record.manifest.name for record in store.outdated("2", "16x32x4")]

    assert outdated() == ["good", "elsewhere", "newer", "old"], "the last good one, then the newest"
    store.forget_superseded("2")
    assert all(folder.exists() for folder in kept.values()), "nothing has taken their place yet"
    for name in ("old", "good", "elsewhere"):
        store.add_compiled(CompiledKey(digests[name], "2", "16x32x4"), output)
    store.forget_superseded("2")
    gone = {name for name, folder in kept.items() if not folder.exists()}
    assert gone == {"old", "good"}, "another array's is as good as it was"
    assert outdated() == ["newer"]


def test_remarks_are_those_of_the_last_compilation(store: Store, tmp_path: Path) -> None:
    bundle = Digest.of(b"bundle")
    written = {"old": "1", "new": "2"}
    for age, (said, version) in enumerate(written.items()):
        output = tmp_path / said
        output.mkdir()
        (output / "remarks.json").write_bytes(serialize([remark(Code.HOST_SHARE, said)]))
        folder = store.add_compiled(CompiledKey(bundle, version, "16x32x4"), output)
        os.utime(folder, (age, age))
    silent = Digest.of(b"of a compiler that had no remarks")
    (tmp_path / "none").mkdir()
    store.add_compiled(CompiledKey(silent, "1", "16x32x4"), tmp_path / "none")
    assert {digest: [str(r) for r in found] for digest, found in store.remarks().items()} == {
        str(bundle): ["new"],
        str(silent): [],
    }


def test_a_damaged_compiled_model_is_made_again(store: Store, root: Path, tmp_path: Path) -> None:
    key = CompiledKey(Digest.of(b"bundle"), "1", "16x32x4")
    output = tmp_path / "output"
    output.mkdir()
    (output / "program.img").write_bytes(b"image")
    damaged = store.add_compiled(key, output) / "program.img"
    damaged.chmod(0o644)
    damaged.write_bytes(b"imagf")
    assert store.compiled(key) is None
    assert any("program.img has changed" in reason for reason in quarantined(root).values())
    store.add_compiled(key, output)
    assert store.compiled(key) is not None


def test_only_plain_files_are_kept_of_what_a_compiler_wrote(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="link is no plain file"):
        store.add_compiled(CompiledKey(Digest.of(b""), "1", "1x1x1"), tmp_path)


def test_a_damaged_blob_is_quarantined_and_comes_back_with_its_bundle(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    record = store.add(bundle)
    model = blob_of(root, record.manifest.files[0].digest)
    model.unlink()
    model.write_bytes(b"something else")
    with pytest.raises(StoreError, match=r"content has the digest .* drop its bundle again"):
        store.materialize(record.digest, store.scratch())
    assert model.name in quarantined(root)
    with pytest.raises(StoreError, match=r"missing from the store; drop its bundle again"):
        store.materialize(record.digest, store.scratch())
    store.add(bundle)
    store.materialize(record.digest, store.scratch())


def test_a_bundle_whose_manifest_is_damaged_does_not_hide_the_others(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    good, bad = store.add(make_bundle("good")), store.add(make_bundle("bad"))
    blob = blob_of(root, bad.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"{}")
    assert store.list() == [good]
    with pytest.raises(StoreError, match="cannot read blob"):
        store.get(bad.digest)


def test_a_newer_catalogue_is_refused_and_not_touched(store: Store, root: Path) -> None:
    store.close()
    path = root / "catalogue.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    message = r"schema 99, this edged knows up to 2; .* newer edged"
    with pytest.raises(StoreError, match=message) as refusal:
        Store(root)
    assert refusal.value.exit_status == 78  # upon which systemd does not start it again
    assert path.read_bytes() == before
    assert quarantined(root) == {}


@pytest.mark.parametrize("damage", [b"", b"this is no database at all" * 100])
def test_an_unreadable_catalogue_is_kept_and_made_again_from_the_blobs(
    store: Store, root: Path, make_bundle: MakeBundle, damage: bytes
) -> None:
    record = store.add(make_bundle())
    store.commit(record.digest)
    store.close()
    (root / "catalogue.db").write_bytes(damage)
    with closing(Store(root)) as again:
        (problem,) = again.problems
        assert "cannot read the catalogue" in problem
        assert "made from the 1 bundles on disk, and none is committed" in problem
        assert [found.digest for found in again.list()] == [record.digest]
        assert again.committed() is None
    kept = next((root / "quarantine").glob("*/catalogue.db"))
    assert kept.read_bytes() == damage
    assert "cannot read the catalogue" in (kept.parent / "reason.txt").read_text()
    with closing(Store(root)) as third:
        assert third.problems == ()
        assert len(third.list()) == 1


def test_what_can_be_read_of_a_damaged_catalogue_is_kept(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    a, b = store.add(make_bundle("a")), store.add(make_bundle("b"))
    store.commit(a.digest)
    store.set_aside(b.digest, "it broke")
    store.close()
    path = root / "catalogue.db"
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_bundles_1'"
        (page,) = db.execute(query).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    # The end of the index's page, where its first entry is: the tables can still be read.
    content[page * size - 8] ^= 0xFF
    path.write_bytes(content)
    with closing(Store(root)) as again:
        (problem,) = again.problems
        assert f"{a.digest} serves as before" in problem
        assert again.committed() == again.get(a.digest)
        assert again.get(b.digest).set_aside == "it broke"
    assert (next((root / "quarantine").glob("*/catalogue.db"))).read_bytes() == content


def test_a_lost_catalogue_is_made_again_from_the_whole_bundles(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    whole, torn = store.add(make_bundle("whole")), store.add(make_bundle("torn"))
    store.close()
    blob_of(root, torn.manifest.files[0].digest).unlink()
    for file in root.glob("catalogue.db*"):
        file.unlink()
    with closing(Store(root)) as again:
        assert "cannot find the catalogue" in again.problems[0]
        assert again.list() == [again.get(whole.digest)]


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot open the store in .*file"):
        Store(tmp_path / "file")


def test_across_file_systems(
    store: Store, root: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    record = store.add(make_bundle())
    into = store.scratch()
    store.materialize(record.digest, into)
    assert (into / "model.onnx").read_bytes() == b"the model of tiny 1.0.0"


def test_threads(store: Store, make_bundle: MakeBundle) -> None:
    bundles = [make_bundle(f"m{i % 3}", "1.0.0", serial=i % 3) for i in range(3)]
    failures: list[Exception] = []
    attempts: list[int] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                digest = store.add(bundles[(number + step) % 3]).digest
                attempts.append(store.begin_attempt(digest))
                store.commit(digest)
                assert store.committed() is not None
                store.list()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(record.attempts for record in store.list()) == 80
    # Every count was given out once.
    assert sorted(attempts) == sorted(
        i + 1 for record in store.list() for i in range(record.attempts)
    )
    assert len(store.history()) == 80


def test_a_catalogue_of_schema_1_is_migrated(
    store: Store, root: Path, make_bundle: MakeBundle, schema_1: Callable[[Path], None]
) -> None:
    a, b = store.add(make_bundle("a")), store.add(make_bundle("b"))
    store.commit(a.digest)
    store.commit(b.digest)
    store.set_aside(a.digest, "it broke")
    store.begin_attempt(b.digest)
    store.close()
    schema_1(root)
    with closing(Store(root)) as again:
        assert again.problems == ()
        assert not again.pinned()
        assert [record.digest for record in again.list()] == [a.digest, b.digest]
        assert again.get(a.digest).set_aside == "it broke"
        assert again.get(a.digest).set_aside_at is None
        assert again.get(b.digest).attempts == 1
        assert [(c.digest, c.model, c.cause, c.gate_closed) for c in again.history()] == [
            (b.digest, "", "", None),
            (a.digest, "", "", None),
        ]
        again.remove(a.digest)  # the first schema would have forbidden it
        assert [c.model for c in again.history()] == ["", "a 1.0.0"]
    with closing(sqlite3.connect(root / "catalogue.db")) as db:
        migrated = columns(db)
    with closing(Store(root.with_name("new"))):
        pass
    with closing(sqlite3.connect(root.with_name("new") / "catalogue.db")) as db:
        assert columns(db) == migrated


def columns(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {
        table: db.execute(f"SELECT * FROM pragma_table_xinfo('{table}')").fetchall()
        for (table,) in tables
    }


def test_history_says_who_wanted_it_and_how_long_calls_were_held(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    a, b = store.add(make_bundle("a")), store.add(make_bundle("b"))
    store.commit(a.digest, "drop of a.edgemodel", 0.25)
    store.commit(b.digest)
    newest, oldest = store.history()
    assert (newest.model, newest.cause, newest.gate_closed) == ("b 1.0.0", "", None)
    assert (oldest.model, oldest.cause) == ("a 1.0.0", "drop of a.edgemodel")
    assert oldest.gate_closed == 0.25
    assert list(store.history(1)) == [newest]
    store.remove(a.digest)
    assert list(store.history()) == [newest, oldest]


def test_the_pin_outlives_a_restart_and_a_damaged_catalogue(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    assert not store.pinned()
    store.add(make_bundle())
    store.pin(True)
    store.pin(True)
    assert store.pinned()
    store.close()
    with closing(Store(root)) as again:
        assert again.pinned()
    path = root / "catalogue.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 0")  # of no known schema
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(Store(root)) as again:
        assert again.problems != ()
        assert again.pinned()
        again.pin(False)
        assert not again.pinned()


def test_setting_aside_and_taking_back(store: Store, make_bundle: MakeBundle) -> None:
    digest = store.add(make_bundle()).digest
    store.begin_attempt(digest)
    store.set_aside(digest, "it broke")
    record = store.get(digest)
    assert record.set_aside == "it broke"
    assert record.set_aside_at is not None and record.set_aside_at >= record.added
    store.clear_set_aside(digest)
    record = store.get(digest)
    assert (record.set_aside, record.set_aside_at, record.attempts) == (None, None, 0)
    with pytest.raises(NotFoundError):
        store.clear_set_aside(Digest.of(b"unknown"))


def test_remove(store: Store, root: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("a")
    a, b = store.add(bundle), store.add(make_bundle("b"))
    key = CompiledKey(a.digest, "1", "16x32x4")
    store.add_compiled(key, bundle.folder)
    store.commit(a.digest)
    with pytest.raises(InputError, match=r"cannot remove a 1.0.0: .* activate another one first"):
        store.remove(a.digest)
    store.commit(b.digest)
    laid_out = store.scratch()
    store.materialize(a.digest, laid_out)
    store.remove(a.digest)
    assert store.list() == [store.get(b.digest)]
    assert store.last_good() is None
    assert store.compiled(key) is None
    assert not blob_of(root, a.digest).exists()
    assert not blob_of(root, a.manifest.files[0].digest).exists()
    # Whoever had it laid out still has it.
    assert (laid_out / "model.onnx").read_bytes() == b"the model of a 1.0.0"
    with pytest.raises(NotFoundError):
        store.remove(a.digest)
    store.add(bundle)
    store.materialize(a.digest, store.scratch())


def test_a_file_that_two_bundles_have_goes_with_the_second(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    one, two = store.add(make_bundle(serial=1)), store.add(make_bundle(serial=2))
    (shared,) = {one.manifest.files[0].digest, two.manifest.files[0].digest}
    store.remove(one.digest)
    store.materialize(two.digest, store.scratch())
    store.remove(two.digest)
    assert not blob_of(root, shared).exists()
    assert not list((root / "blobs" / "sha256").iterdir())


def test_collect_keeps_what_serves_what_served_and_the_newest(
    store: Store, make_bundle: MakeBundle
) -> None:
    records = [store.add(make_bundle(f"m{number}")) for number in range(8)]
    # m0 served long ago but later than m2 came; m1 served last but for m3.
    for number in (2, 0, 1, 3):
        store.commit(records[number].digest)
    removed = store.collect(2, protect={records[4].digest})
    assert [str(r) for r in removed] == ["m2 1.0.0", "m7 1.0.0", "m6 1.0.0", "m5 1.0.0"]
    assert [str(r)[:2] for r in store.list()] == ["m0", "m1", "m3", "m4"]
    assert store.collect(2, protect={records[4].digest}) == []
    store.collect(0, protect={records[4].digest})
    assert [str(r)[:2] for r in store.list()] == ["m1", "m3", "m4"]
    store.collect(0)
    assert [str(r)[:2] for r in store.list()] == ["m1", "m3"]


def test_while_one_bundle_cannot_be_read_no_file_is_taken_for_garbage(
    store: Store, root: Path, make_bundle: MakeBundle
) -> None:
    bad, gone = store.add(make_bundle("bad")), store.add(make_bundle("gone"))
    blob = blob_of(root, bad.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"{}")
    store.remove(gone.digest)
    assert blob_of(root, bad.manifest.files[0].digest).exists()
    assert store.list() == []
