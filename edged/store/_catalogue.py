"""The catalogue: which bundles there are, and which of them serves, in SQLite.

WAL and ``synchronous=FULL``: what a method has done is on disk when it returns. The file appears
under its name only when it is whole, so an empty or torn one is a fault and not a beginning.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, Self

from edged.bundle import Digest
from edged.errors import ConfigError, EdgedError, ShortageError, StoreError
from edged.faults import fault_point
from edged.store._durable import DISK_FULL, sync_file, sync_folder

__all__ = [
    "Catalogue",
    "Commit",
    "Content",
    "Entry",
    "NewerSchemaError",
    "UnreadableError",
    "companions",
    "salvage",
]

SCHEMA_VERSION: Final = 2
_MAX_COMMITS: Final = 10_000
_COMMITS: Final = """
CREATE TABLE commits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL,            -- outlives the bundle: history is not rewritten
    at REAL NOT NULL,                -- seconds since 1970
    model TEXT NOT NULL DEFAULT '',  -- name and version, for when the bundle is gone
    cause TEXT NOT NULL DEFAULT '',  -- who wanted it, and why
    gate_closed REAL                 -- for how many seconds calls were held; NULL: not measured
) STRICT;
"""
_SETTINGS: Final = """
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
"""
_SCHEMA: Final = f"""
CREATE TABLE bundles (
    digest TEXT PRIMARY KEY,         -- of the OCI image manifest
    added REAL NOT NULL,             -- seconds since 1970
    attempts INTEGER NOT NULL DEFAULT 0,
    set_aside TEXT,                  -- the reason, or NULL
    set_aside_at REAL                -- seconds since 1970, or NULL
) STRICT;
{_COMMITS}{_SETTINGS}"""
# Statement by statement, so that all of it is one transaction.
_FROM_1_TO_2: Final = (
    "ALTER TABLE bundles ADD COLUMN set_aside_at REAL",
    "ALTER TABLE commits RENAME TO commits_1",
    _COMMITS,
    "INSERT INTO commits (id, digest, at) SELECT id, digest, at FROM commits_1",
    "DROP TABLE commits_1",
    _SETTINGS,
    "PRAGMA user_version = 2",
)
_PINNED: Final = "pinned"
_SET: Final = "INSERT OR REPLACE INTO settings VALUES (?, ?)"
_INSERT_COMMIT: Final = (
    "INSERT INTO commits (digest, at, model, cause, gate_closed) VALUES (?, ?, ?, ?, ?)"
)
_SERVED: Final = (
    "SELECT digest, max(at) FROM commits JOIN bundles USING (digest)"
    " GROUP BY digest ORDER BY max(id) DESC"
)


class UnreadableError(StoreError):
    """The file is there, and is no catalogue that can be trusted."""


class NewerSchemaError(StoreError):
    """The file was written by a newer edged, and is not touched."""

    # As for a configuration: starting once more does not help, and systemd does not do it.
    exit_status = ConfigError.exit_status


@dataclass(frozen=True, slots=True)
class Entry:
    """A bundle's row.

    Attributes:
        digest: of the bundle.
        added: when it was, in seconds since 1970.
        attempts: starts since the last one that went well.
        set_aside: why it is not to be started, or ``None``.
        set_aside_at: since when, in seconds since 1970.
    """

    digest: Digest
    added: float
    attempts: int = 0
    set_aside: str | None = None
    set_aside_at: float | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """That a bundle became the one that serves.

    Attributes:
        digest: of the bundle, which may have been removed since.
        at: when, in seconds since 1970.
        model: name and version; empty when an edged that did not note it committed it.
        cause: who wanted it and why; empty when that was not said.
        gate_closed: for how many seconds calls were held, or ``None``.
    """

    digest: Digest
    at: float
    model: str = ""
    cause: str = ""
    gate_closed: float | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """All that a catalogue says, rows in the order in which they came."""

    entries: tuple[Entry, ...] = ()
    commits: tuple[Commit, ...] = ()
    pinned: bool = False


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
    def create(cls, path: Path, content: Content = Content()) -> Self:
        """Make a new file at *path*, in the place of what is there, with that content."""
        new = path.with_suffix(".new")
        for leftover in (new, *companions(new)):
            leftover.unlink(missing_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                db.executemany(
                    "INSERT INTO bundles VALUES (?, ?, ?, ?, ?)",
                    [_fields(entry) for entry in content.entries],
                )
                db.executemany(_INSERT_COMMIT, [_fields(commit) for commit in content.commits])
                db.execute(_SET, (_PINNED, str(int(content.pinned))))
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise _translated("write", new, error) from error
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
            fault_point("store.attempts.cleared")

    def set_aside(self, digest: Digest, reason: str | None) -> None:
        """Note why the bundle is not to be started; with ``None``, that it may be again."""
        fault_point("store.set_aside.before")
        with self._writing() as db:
            if reason is None:
                query = (
                    "UPDATE bundles SET set_aside = NULL, set_aside_at = NULL, attempts = 0"
                    " WHERE digest = ?"
                )
                db.execute(query, (str(digest),))
            else:
                query = "UPDATE bundles SET set_aside = ?, set_aside_at = ? WHERE digest = ?"
                db.execute(query, (reason, time.time(), str(digest)))
            fault_point("store.set_aside.within")
        fault_point("store.set_aside.after")

    def commit(self, commit: Commit) -> None:
        """Make the bundle the one that serves, from now on and after every restart."""
        fault_point("store.commit.before")
        with self._writing() as db:
            db.execute(_INSERT_COMMIT, _fields(commit))
            db.execute(
                "UPDATE bundles SET set_aside = NULL, set_aside_at = NULL WHERE digest = ?",
                (str(commit.digest),),
            )
            db.execute(
                "DELETE FROM commits WHERE id <= (SELECT max(id) FROM commits) - ?",
                (_MAX_COMMITS,),
            )
            fault_point("store.commit.within")
        fault_point("store.commit.after")

    def commits(self, limit: int = _MAX_COMMITS) -> list[Commit]:
        """The last *limit* commits, the newest first."""
        query = "SELECT digest, at, model, cause, gate_closed FROM commits ORDER BY id DESC LIMIT ?"
        with self._reading() as db:
            rows = db.execute(query, (limit,)).fetchall()
        return [Commit(Digest(digest), *rest) for digest, *rest in rows]

    def served(self) -> dict[Digest, float]:
        """The bundles that were committed and are still here, and when each was committed last.

        The first is the one that serves, the second served before it, and so on.
        """
        with self._reading() as db:
            return {Digest(digest): at for digest, at in db.execute(_SERVED)}

    def remove(self, digest: Digest, model: str) -> bool:
        """Forget the bundle, unless it is committed; whether it was forgotten."""
        fault_point("store.remove.before")
        with self._writing() as db:
            committed = db.execute(_SERVED).fetchone()
            if committed is not None and committed[0] == digest:
                return False
            db.execute(
                "UPDATE commits SET model = ? WHERE digest = ? AND model = ''",
                (model, str(digest)),
            )
            db.execute("DELETE FROM bundles WHERE digest = ?", (str(digest),))
            fault_point("store.remove.within")
        fault_point("store.remove.after")
        return True

    def pinned(self) -> bool:
        with self._reading() as db:
            row = db.execute("SELECT value FROM settings WHERE name = ?", (_PINNED,)).fetchone()
        return bool(row == ("1",))

    def pin(self, pinned: bool) -> None:
        fault_point("store.pin.before")
        with self._writing() as db:
            db.execute(_SET, (_PINNED, str(int(pinned))))
        fault_point("store.pin.after")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise _translated("read", self._path, error) from error

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
                raise _translated("write", self._path, error) from error


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
        if version not in (1, SCHEMA_VERSION) or verdict != ["ok"]:
            raise UnreadableError(
                f"cannot read the catalogue {path}: schema {version}, integrity: "
                f"{'; '.join(verdict)}"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if version == 1:
            _migrate(db)
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


def _migrate(db: sqlite3.Connection) -> None:
    """From schema 1 to schema 2: all of it or nothing."""
    fault_point("store.migrate.before")
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _FROM_1_TO_2:
            db.execute(statement)
        fault_point("store.migrate.within")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    fault_point("store.migrate.after")


def salvage(path: Path) -> Content:
    """What can still be read of a damaged catalogue of any schema; changes nothing."""
    entries: list[Entry] = []
    commits: list[Commit] = []
    pinned = False
    readable = (sqlite3.Error, StoreError, ValueError, TypeError)
    with contextlib.suppress(*readable):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            with contextlib.suppress(*readable):
                entries += [_entry(row) for row in db.execute("SELECT * FROM bundles")]
            with contextlib.suppress(*readable):
                rows = db.execute("SELECT * FROM commits ORDER BY id")
                commits += [Commit(Digest(digest), *rest) for _id, digest, *rest in rows]
            row = db.execute("SELECT value FROM settings WHERE name = ?", (_PINNED,)).fetchone()
            pinned = row == ("1",)
    return Content(tuple(entries), tuple(commits), pinned)


def companions(path: Path) -> list[Path]:
    """The files that SQLite keeps beside *path*."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def _entry(row: tuple[Any, ...]) -> Entry:
    digest, *rest = row
    return Entry(Digest(digest), *rest)


def _fields(row: Entry | Commit) -> tuple[object, ...]:
    # SQLite takes no subclasses of str.
    return tuple(str(v) if isinstance(v, Digest) else v for v in astuple(row))


def _translated(doing: str, path: Path, error: sqlite3.Error) -> EdgedError:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return ShortageError(f"cannot {doing} the catalogue {path}: {DISK_FULL}")
    return StoreError(f"cannot {doing} the catalogue {path}: {error}")
