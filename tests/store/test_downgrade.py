"""The package's preinst, which keeps an edged away from a catalogue that it cannot read."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from pathlib import Path

import pytest

from edged.store import Store
from edged.store._catalogue import SCHEMA_VERSION

SCRIPT = Path(__file__).parents[2] / "packaging" / "debian" / "preinst"


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    Store(tmp_path).close()
    return tmp_path / "catalogue.db"


def install(catalogue: Path, schema: int = SCHEMA_VERSION) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.read_text().replace("@SCHEMA@", str(schema))
    script = script.replace("/var/lib/edged/catalogue.db", str(catalogue))
    return subprocess.run(
        ["sh", "-c", script, "preinst", "install"], capture_output=True, text=True, check=False
    )


def test_its_own_and_older_ones_are_fine_and_newer_ones_are_not(catalogue: Path) -> None:
    assert (install(catalogue).returncode, install(catalogue).stderr) == (0, "")
    assert install(catalogue, SCHEMA_VERSION + 1).returncode == 0
    assert install(catalogue.with_name("none")).returncode == 0
    refused = install(catalogue, SCHEMA_VERSION - 1)
    assert refused.returncode == 1
    assert f"version {SCHEMA_VERSION} of its tables" in refused.stderr


def test_what_is_in_the_write_ahead_log_only_counts(catalogue: Path) -> None:
    newer = SCHEMA_VERSION + 256
    with contextlib.closing(sqlite3.connect(catalogue, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA user_version = {newer}")
        header = catalogue.read_bytes()[60:64]
        assert int.from_bytes(header, "big") == SCHEMA_VERSION
        # Page 1 is not the last one written.
        db.execute("INSERT INTO settings VALUES ('a', 'b')")
        refused = install(catalogue)
        assert f"version {newer} of its tables" in refused.stderr
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        assert install(catalogue).returncode == 0


def test_what_is_left_of_an_older_log_does_not_count(catalogue: Path) -> None:
    with contextlib.closing(sqlite3.connect(catalogue, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO settings VALUES ('a', 'b')")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        # The next log begins at the start of the file, before the frames of this one.
        db.execute("PRAGMA wal_checkpoint(RESTART)")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        assert install(catalogue).returncode == 0


def test_what_was_not_committed_does_not_count(catalogue: Path) -> None:
    with contextlib.closing(sqlite3.connect(catalogue, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        # In a frame, bytes 4 to 7 are 0 but in the last one of a transaction.
        log = bytearray(catalogue.with_name("catalogue.db-wal").read_bytes())
        assert any(log[36:40])
        log[36:40] = bytes(4)
        catalogue.with_name("catalogue.db-wal").write_bytes(log)
        assert install(catalogue).returncode == 0
