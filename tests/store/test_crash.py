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

from edged.bundle import VerifiedBundle
from edged.errors import EdgedError
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
    "store.blob.linked",
    "store.add.blobs",
    "store.add.done",
    "store.attempt.counted",
    "store.compiled.staged",
    "store.compiled.renamed",
    "store.commit.before",
    "store.commit.within",
    "store.commit.after",
)


def run_child(root: Path, bundle: VerifiedBundle, fault: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(bundle.folder)],
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
        compiled = store.compiled(CompiledKey(new.digest, "1", "a"))
        assert (compiled is not None) == (passed >= POINTS.index("store.compiled.renamed"))

    # And whatever was left unfinished does not stand in the way of doing it again.
    assert run_child(root, new, "").stdout == "done\n"
    with closing(Store(root)) as store:
        committed = store.committed()
        assert committed is not None and committed.digest == new.digest
        assert not list((root / "scratch").iterdir())


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
