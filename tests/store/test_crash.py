"""The store's process is ended on the spot at every named point, and the store opened again.

Old or new, never neither, never a mix.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edged.bundle import Digest, VerifiedBundle
from edged.errors import EdgedError, LimitError
from edged.faults import FAULT_EXIT_STATUS, fault_point
from edged.store import CompiledKey, Store

MakeBundle = Callable[..., VerifiedBundle]

CHILD = """
import sys
from pathlib import Path
from edged.bundle import Manifest, VerifiedBundle, Digest
from edged.store import CompiledKey, Store
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
manifest = Manifest.parse((folder / "manifest.json").read_bytes())
digest = Digest.of((folder / "oci-manifest.json").read_bytes())
store = Store(root)
store.add(VerifiedBundle(digest=digest, manifest=manifest, folder=folder))
store.begin_attempt(digest)
store.add_compiled(CompiledKey(digest, "1", "a"), folder)
store.commit(digest)
print("done")
"""

POINTS = (
    "store.add.before",
    "store.blob.linked",
    "store.add.linked",
    "store.add.blobs",
    "store.add.done",
    "store.attempt.counted",
    "store.compiled.staged",
    "store.compiled.renamed",
    "store.commit.before",
    "store.commit.within",
    "store.commit.after",
)


def blobs_of(root: Path) -> set[str]:
    """The names of all blobs there are."""
    return {path.name for path in (root / "blobs" / "sha256").iterdir()}


def blobs(bundle: VerifiedBundle) -> set[str]:
    """The names of the blobs of *bundle*."""
    return {Digest.of(path.read_bytes()).hex for path in bundle.folder.iterdir()}


def run_child(
    root: Path, bundle: VerifiedBundle, fault: str, script: str = CHILD
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(root), str(bundle.folder)],
        env={**os.environ, "EDGED_FAULT": fault},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("point", POINTS)
def test_old_or_new(tmp_path: Path, make_bundle: MakeBundle, point: str) -> None:
    root = tmp_path / "state"
    old, new = make_bundle("old"), make_bundle("new")
    with closing(Store(root)) as store:
        store.add(old)
        store.commit(old.digest)

    assert run_child(root, new, point).returncode == FAULT_EXIT_STATUS

    passed = POINTS.index(point)
    with closing(Store(root)) as store:
        assert store.problems == ()
        committed = store.committed()
        assert committed is not None
        assert committed.digest == (new if point == "store.commit.after" else old).digest
        known = {record.digest for record in store.list()}
        assert (new.digest in known) == (passed >= POINTS.index("store.add.done"))
        for record in store.list():
            store.materialize(record.digest, store.scratch())
        if new.digest in known:
            counted = passed >= POINTS.index("store.attempt.counted")
            assert store.get(new.digest).attempts == int(counted)
        else:
            assert blobs_of(root) == {blob for b in (old,) for blob in blobs(b)}
        compiled = store.compiled(CompiledKey(new.digest, "1", "a"))
        assert (compiled is not None) == (passed >= POINTS.index("store.compiled.renamed"))

    # And whatever was left unfinished does not stand in the way of doing it again.
    assert run_child(root, new, "").stdout == "done\n"
    with closing(Store(root)) as store:
        committed = store.committed()
        assert committed is not None and committed.digest == new.digest
        assert not list((root / "scratch").iterdir())


REMOVER = CHILD.replace(
    'print("done")',
    """
from edged.errors import InputError
old = next(r for r in store.list() if r.manifest.name == "old")
store.set_aside(old.digest, "it is old")
store.pin(True)
store.remove(old.digest)
store.collect(0)
print("done")
""",
)

REMOVAL = (
    "store.set_aside.before",
    "store.set_aside.within",
    "store.set_aside.after",
    "store.pin.before",
    "store.pin.after",
    "store.remove.before",
    "store.remove.within",
    "store.remove.after",
    "store.compiled.removed",
    "store.blob.removed",
)


@pytest.mark.parametrize("point", REMOVAL)
def test_removed_or_not(tmp_path: Path, make_bundle: MakeBundle, point: str) -> None:
    """A bundle and all of its files, or nothing of it; what another one has too stays."""
    root = tmp_path / "state"
    old, new = make_bundle("old"), make_bundle("new")
    key = CompiledKey(old.digest, "1", "a")
    with closing(Store(root)) as store:
        store.add(old)
        store.add_compiled(key, old.folder)
        store.commit(old.digest)

    assert run_child(root, new, point, REMOVER).returncode == FAULT_EXIT_STATUS

    passed = REMOVAL.index(point)
    with closing(Store(root)) as store:
        assert store.problems == ()
        assert store.pinned() == (passed >= REMOVAL.index("store.pin.after"))
        removed = passed >= REMOVAL.index("store.remove.after")
        assert [r.manifest.name for r in store.list()] == (["new"] if removed else ["new", "old"])
        assert (store.compiled(key) is None) == removed
        assert blobs_of(root) == (blobs(new) if removed else blobs(new) | blobs(old))
        if not removed:
            aside = store.get(old.digest).set_aside
            assert aside == (
                "it is old" if passed >= REMOVAL.index("store.set_aside.after") else None
            )
        for record in store.list():
            store.materialize(record.digest, store.scratch())
        assert [commit.model for commit in store.history()] == ["new 1.0.0", "old 1.0.0"]

    if not removed:
        assert run_child(root, new, "", REMOVER).stdout == "done\n"
    with closing(Store(root)) as store:
        assert [r.manifest.name for r in store.list()] == ["new"]
        assert len(list((root / "compiled").iterdir())) == 1


@pytest.mark.parametrize(
    "point", ["store.migrate.before", "store.migrate.within", "store.migrate.after"]
)
def test_migrated_or_not(
    tmp_path: Path, make_bundle: MakeBundle, schema_1: Callable[..., None], point: str
) -> None:
    root = tmp_path / "state"
    old, new = make_bundle("old"), make_bundle("new")
    with closing(Store(root)) as store:
        store.add(old)
        store.commit(old.digest)
    schema_1(root)
    assert run_child(root, new, point).returncode == FAULT_EXIT_STATUS
    with closing(Store(root)) as store:
        assert store.problems == ()
        committed = store.committed()
        assert committed is not None and committed.digest == old.digest
        assert [(commit.digest, commit.cause) for commit in store.history()] == [(old.digest, "")]


def fill(store: Store, bundle: VerifiedBundle) -> None:
    store.add(bundle)
    store.add_compiled(CompiledKey(bundle.digest, "1", "a"), bundle.folder)


@pytest.mark.parametrize(
    "point", ["store.blob.linked", "store.add.linked", "store.compiled.staged"]
)
def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, make_bundle: MakeBundle, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "state"
    old, new = make_bundle("old"), make_bundle("new")
    with closing(Store(root)) as store:
        store.add(old)
        monkeypatch.setenv("EDGED_FAULT", f"{point}:enospc")
        with pytest.raises(LimitError, match=r"^cannot .*: no space is left .* `edgectl remove "):
            fill(store, new)
        monkeypatch.delenv("EDGED_FAULT")
        known = {record.digest for record in store.list()}
        assert known == {old.digest, *([new.digest] if "compiled" in point else [])}
        assert blobs_of(root) == blobs(old) | (blobs(new) if "compiled" in point else set())
        assert not list((root / "scratch").iterdir())
        assert not list((root / "compiled").iterdir())
        store.add(new)
        store.materialize(new.digest, store.scratch())


def test_a_disk_that_is_really_full(tmp_path: Path, make_bundle: MakeBundle) -> None:
    """A file system of 1 MiB, and more bundles than go into it."""
    bundle = make_bundle()
    (tmp_path / "disk").mkdir()
    script = tmp_path / "fill.py"
    script.write_text(FILL)
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
            'mount -t tmpfs -o size=1m tmpfs "$1" || exit 99; exec "$2" "$3" "$1" "$4"',
            *("sh", tmp_path / "disk", sys.executable, script, bundle.folder),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 99) and "ermitted" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "no space is left on the disk" in done.stdout


FILL = """
import shutil, sys
from pathlib import Path
from edged.bundle import Digest
from edged.errors import LimitError
from edged.store import CompiledKey, Store
root, folder = Path(sys.argv[1]) / "state", Path(sys.argv[2])
from edged.bundle import Manifest, VerifiedBundle
manifest = Manifest.parse((folder / "manifest.json").read_bytes())
digest = Digest.of((folder / "oci-manifest.json").read_bytes())
store = Store(root)
store.add(VerifiedBundle(digest=digest, manifest=manifest, folder=folder))
store.commit(digest)
big = folder.parent / "compiled"
big.mkdir()
(big / "program.img").write_bytes(bytes(300_000))
kept = 0
try:
    for number in range(100):
        store.add_compiled(CompiledKey(digest, str(number), "a"), big)
        kept += 1
except LimitError as error:
    print(error)
assert 0 < kept < 4
assert not list((root / "scratch").iterdir())
store.close()
store = Store(root)
assert store.problems == ()
assert store.committed().digest == digest
assert len(list((root / "compiled").iterdir())) == kept
"""


@pytest.mark.parametrize("existing", ["nothing", "damaged"])
def test_while_the_catalogue_is_made(
    tmp_path: Path, make_bundle: MakeBundle, existing: str
) -> None:
    root = tmp_path / "state"
    old = make_bundle("old")
    if existing == "damaged":
        with closing(Store(root)) as store:
            store.add(old)
        (root / "catalogue.db").write_bytes(b"no database")
    new = make_bundle("new")
    assert run_child(root, new, "store.catalogue.written").returncode == FAULT_EXIT_STATUS
    assert run_child(root, new, "").stdout == "done\n"
    with closing(Store(root)) as store:
        expected = {new.digest, old.digest} if existing == "damaged" else {new.digest}
        assert {record.digest for record in store.list()} == expected


def test_fault_points_do_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGED_FAULT", raising=False)
    fault_point("a.b")
    monkeypatch.setenv("EDGED_FAULT", "x.y:raise,a.bc:raise")
    fault_point("a.b")
    monkeypatch.setenv("EDGED_FAULT", "x.y,a.b:raise")
    with pytest.raises(EdgedError, match=r"a test asked for a fault at a\.b"):
        fault_point("a.b")
