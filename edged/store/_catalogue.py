"""The catalogue: which bundles there are, and which of them serves, in SQLite.

WAL and ``synchronous=FULL``: what a method has done is on disk when it returns. The file appears
under its name only when it is whole, so an empty or torn one is a fault and not a beginning.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edged.bundle import Digest
from edged.errors import StoreError
from edged.faults import fault_point
from edged.store._durable import sync_file, sync_folder

__all__ = [
    "Catalogue",
    "Commit",
    "Entry",
    "NewerSchemaError",
    "UnreadableError",
    "companions",
    "salvage",
]

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE bundles (
    digest TEXT PRIMARY KEY,         -- of the OCI image manifest
    added REAL NOT NULL,             -- seconds since 1970
    attempts INTEGER NOT NULL DEFAULT 0,
    set_aside TEXT                   -- the reason, or NULL
) STRICT;
CREATE TABLE commits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL REFERENCES bundles (digest),
    at REAL NOT NULL
) STRICT;
"""


class UnreadableError(StoreError):
    """The file is there, and is no catalogue that can be trusted."""


class NewerSchemaError(StoreError):
    """The file was written by a newer edged, and is not touched."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A bundle's row.

    Attributes:
        digest: of the bundle.
        added: when it was, in seconds since 1970.
        attempts: starts since the last one that went well.
        set_aside: why it is not to be started, or ``None``.
    """

    digest: Digest
    added: float
    attempts: int = 0
    set_aside: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """That a bundle became the one that serves, at a time in seconds since 1970."""

    digest: Digest
    at: float


class Catalogue:
    """An open catalogue. Its methods may be called from any thread.

    Args:
        path: the file, which exists.

    Raises:
        NewerSchemaError, UnreadableError: it cannot be used; the file is as it was.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._db = _open(path)

    @classmethod
    def create(
        cls, path: Path, entries: Iterable[Entry] = (), commits: Iterable[Commit] = ()
    ) -> Self:
        """Make a new file at *path*, in the place of what is there, with that content."""
        new = path.with_suffix(".new")
        for leftover in (new, *companions(new)):
            leftover.unlink(missing_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                db.executemany(
                    "INSERT INTO bundles VALUES (?, ?, ?, ?)",
                    [(str(e.digest), e.added, e.attempts, e.set_aside) for e in entries],
                )
                db.executemany(
                    "INSERT INTO commits (digest, at) VALUES (?, ?)",
                    [(str(c.digest), c.at) for c in commits],
                )
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise StoreError(f"cannot write the catalogue {new}: {error}") from error
        sync_file(new)
        fault_point("store.catalogue.written")
        new.rename(path)
        sync_folder(path.parent)
        return cls(path)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def entries(self) -> list[Entry]:
        """Every bundle, the oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT * FROM bundles ORDER BY added, digest").fetchall()
        return [_entry(row) for row in rows]

    def entry(self, digest: Digest) -> Entry | None:
        with self._reading() as db:
            query = "SELECT * FROM bundles WHERE digest = ?"
            row = db.execute(query, (str(digest),)).fetchone()
        return _entry(row) if row else None

    def add(self, digest: Digest) -> None:
        """Note the bundle, unless it is known."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO bundles (digest, added) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (str(digest), time.time()),
            )

    def count_attempt(self, digest: Digest) -> int:
        """One more attempt; how many there are now."""
        query = "UPDATE bundles SET attempts = attempts + 1 WHERE digest = ? RETURNING attempts"
        with self._writing() as db:
            (attempts,) = db.execute(query, (str(digest),)).fetchone()
        return int(attempts)

    def clear_attempts(self, digest: Digest) -> None:
        with self._writing() as db:
            db.execute("UPDATE bundles SET attempts = 0 WHERE digest = ?", (str(digest),))

    def set_aside(self, digest: Digest, reason: str | None) -> None:
        with self._writing() as db:
            query = "UPDATE bundles SET set_aside = ? WHERE digest = ?"
            db.execute(query, (reason, str(digest)))

    def commit(self, digest: Digest) -> None:
        """Make the bundle the one that serves, from now on and after every restart."""
        fault_point("store.commit.before")
        with self._writing() as db:
            db.execute("INSERT INTO commits (digest, at) VALUES (?, ?)", (str(digest), time.time()))
            db.execute("UPDATE bundles SET set_aside = NULL WHERE digest = ?", (str(digest),))
            fault_point("store.commit.within")
        fault_point("store.commit.after")

    def commits(self) -> list[Commit]:
        """Every commit, the newest first."""
        with self._reading() as db:
            rows = db.execute("SELECT digest, at FROM commits ORDER BY id DESC").fetchall()
        return [Commit(Digest(digest), at) for digest, at in rows]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StoreError(f"cannot read the catalogue {self._path}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreError(f"cannot write the catalogue {self._path}: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    db = None
    try:
        if path.stat().st_size == 0:
            raise UnreadableError(f"cannot read the catalogue {path}: it is empty")
        uri = f"{path.absolute().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"cannot use the catalogue {path}: it has schema {version}, this edged knows up to "
                f"{SCHEMA_VERSION}; it was written by a newer edged: install that again"
            )
        verdict = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
        if version != SCHEMA_VERSION or verdict != ["ok"]:
            raise UnreadableError(
                f"cannot read the catalogue {path}: schema {version}, integrity: "
                f"{'; '.join(verdict)}"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
    except (StoreError, sqlite3.OperationalError, OSError) as error:
        if db is not None:
            db.close()
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot open the catalogue {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        if db is not None:
            db.close()
        raise UnreadableError(f"cannot read the catalogue {path}: {error}") from error
    return db


def salvage(path: Path) -> tuple[list[Entry], list[Commit]]:
    """What can still be read of a damaged catalogue, the oldest first; changes nothing."""
    entries: list[Entry] = []
    commits: list[Commit] = []
    with contextlib.suppress(sqlite3.Error, StoreError, ValueError, TypeError):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            with contextlib.suppress(sqlite3.Error):
                entries += [_entry(row) for row in db.execute("SELECT * FROM bundles")]
            rows = db.execute("SELECT digest, at FROM commits ORDER BY id")
            commits += [Commit(Digest(digest), at) for digest, at in rows]
    return entries, commits


def companions(path: Path) -> list[Path]:
    """The files that SQLite keeps beside *path*."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def _entry(row: tuple[str, float, int, str | None]) -> Entry:
    digest, added, attempts, set_aside = row
    return Entry(Digest(digest), added, attempts, set_aside)
