"""The store: blobs, catalogue and compiled images under one folder."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged.bundle import (
    MANIFEST_NAME,
    OCI_MANIFEST_NAME,
    Digest,
    Manifest,
    VerifiedBundle,
    Version,
    config_digest,
)
from edged.errors import BundleError, EdgedError, InputError, NotFoundError, StoreError
from edged.faults import fault_point
from edged.notices import Notice, about
from edged.remarks import Remark
from edged.store._blobs import Blobs
from edged.store._catalogue import (
    Catalogue,
    Commit,
    Content,
    Entry,
    UnreadableError,
    companions,
    salvage,
)
from edged.store._compiled import CompiledCache, CompiledKey
from edged.store._durable import quarantine, sync_folder, translated

__all__ = ["BundleRecord", "Store"]

_log = logging.getLogger(__name__)
_MAX_METADATA_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """A bundle in the store, as it was when asked.

    Attributes:
        digest: its identity.
        manifest: what it says of its model.
        added: when it was taken in, in seconds since 1970.
        attempts: starts since the last one that went well.
        set_aside: why it is not to be started, or ``None``.
        set_aside_at: since when, in seconds since 1970.
    """

    digest: Digest
    manifest: Manifest
    added: float
    attempts: int
    set_aside: str | None
    set_aside_at: float | None = None

    def __str__(self) -> str:
        return str(self.manifest)


class Store:
    """What edged knows between two starts. Its methods may be called from any thread.

    One process at a time may have it open. Under *root*: ``blobs/sha256``, ``catalogue.db``,
    ``compiled``, ``scratch`` (emptied here), ``quarantine``.

    A catalogue that is damaged is moved to ``quarantine`` with the reason beside it, and a new one
    is made from the blobs, and from the rows that can still be read; `problems` says so. One that
    was written by a newer edged is refused and not touched.

    What a crash left behind, blobs and compiled models of bundles that are not in the catalogue, is
    removed here.

    Args:
        root: the folder; made if it is not there.

    Attributes:
        problems: what was found wrong when opening, a sentence each; empty as a rule.

    Raises:
        StoreError: the folder cannot be used, or belongs to a newer edged.
    """

    def __init__(self, root: Path) -> None:
        self.problems: tuple[str, ...] = ()
        self._root = root
        self._scratch = root / "scratch"
        self._writing = threading.Lock()
        with translated(f"cannot open the store in {root}"):
            root.mkdir(mode=0o750, parents=True, exist_ok=True)
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.mkdir(mode=0o700, exist_ok=True)
            self._blobs = Blobs(root)
            self._blobs.clear_partial()
            self._compiled = CompiledCache(root)
            sync_folder(root)
            self._catalogue = self._open_catalogue()
            # What was found wrong stays as it is for someone to look at.
            if not self.problems:
                self._sweep()

    def close(self) -> None:
        """Let go of the files. Nothing is lost without it."""
        self._catalogue.close()

    # Bundles.

    def add(self, bundle: VerifiedBundle) -> BundleRecord:
        """Take in a bundle; one that is there already stays as it is.

        Raises:
            ShortageError: the disk is full. Nothing of the bundle is left.
            StoreError: it cannot be written. Nothing of the bundle is left.
        """
        with self._writing, translated(f"cannot store {bundle.manifest}"):
            fault_point("store.add.before")
            try:
                self._add_blobs(bundle)
                fault_point("store.add.blobs")
                self._catalogue.add(bundle.digest)
            except (EdgedError, OSError):
                with contextlib.suppress(EdgedError, OSError):
                    self._sweep()
                raise
            fault_point("store.add.done")
        return self.get(bundle.digest)

    def _add_blobs(self, bundle: VerifiedBundle) -> None:
        for file in bundle.manifest.files:
            self._blobs.add(bundle.folder / file.name, file.digest)
        oci_manifest = bundle.folder / OCI_MANIFEST_NAME
        self._blobs.add(bundle.folder / MANIFEST_NAME, config_digest(oci_manifest.read_bytes()))
        self._blobs.add(oci_manifest, bundle.digest)
        fault_point("store.add.linked")
        self._blobs.sync()

    def get(self, digest: Digest) -> BundleRecord:
        """The bundle of that digest.

        Raises:
            NotFoundError: there is none.
            StoreError: its manifest is missing or damaged.
        """
        return self._record(self._entry(digest))

    def find(self, name: str, version: Version | str | None = None) -> BundleRecord:
        """The bundle of that name: of that version, or else of the highest serial.

        Raises:
            NotFoundError: there is none; lists those there are.
        """
        records = self.list()
        found = [
            record
            for record in records
            if record.manifest.name == name
            and (version is None or str(record.manifest.version) == str(version))
        ]
        if not found:
            there = ", ".join(str(record) for record in records) or "none"
            wanted = name if version is None else f"{name} {version}"
            raise NotFoundError(f"cannot find a model {wanted!r}; in the store: {there}")
        return max(found, key=lambda record: (record.manifest.serial, record.added))

    def list(self) -> list[BundleRecord]:
        """Every bundle that can be read, by name and serial; the others are logged."""
        records = []
        for entry in self._catalogue.entries():
            try:
                records.append(self._record(entry))
            except StoreError as error:
                _log.error("%s", error)
        return sorted(records, key=lambda r: (r.manifest.name, r.manifest.serial, r.added))

    def materialize(self, digest: Digest, into: Path) -> None:
        """Put the bundle's files into the folder *into* by their names, read-only.

        They are ``manifest.json``, ``model.onnx`` and whatever else the bundle has; links where the
        file system allows. Every one is checked against its digest.

        Raises:
            NotFoundError: there is no such bundle.
            StoreError: a file is missing or damaged; says what to do.
        """
        record = self.get(digest)
        with translated(f"cannot lay out {record}"):
            self._blobs.link(self._config_digest(digest), into / MANIFEST_NAME)
            for file in record.manifest.files:
                self._blobs.link(file.digest, into / file.name)

    # Compiled images.

    def compiled(self, key: CompiledKey) -> Path | None:
        """The folder with the compiled model, or ``None``: compile it. Not to be written to."""
        with translated("cannot read compiled models"):
            return self._compiled.get(key)

    def add_compiled(self, key: CompiledKey, folder: Path) -> Path:
        """Keep a copy of the plain files in *folder*; returns where they are now.

        Raises:
            ShortageError: the disk is full. Nothing of it is left.
            StoreError: it cannot be written. Nothing of it is left.
        """
        with self._writing, translated("cannot keep the compiled model"):
            return self._compiled.add(key, folder)

    def outdated(self, compiler_version: str, array: str) -> Sequence[BundleRecord]:
        """Bundles compiled before by another compiler, or for another array or ABI only.

        The last good one comes first, then the newest. Those that are set aside are left out.
        """
        records = {each.digest: each for each in self.list() if not each.set_aside}
        with translated("cannot read compiled models"):
            outdated = self._compiled.outdated(records, compiler_version, array)
        good = self.last_good()
        return sorted(
            (records[digest] for digest in outdated),
            key=lambda each: (good is None or each.digest != good.digest, -each.added),
        )

    def forget_superseded(self, compiler_version: str) -> None:
        """Remove what other compilers made, or for another ABI, where this one has made its own."""
        with self._writing, translated("cannot remove compiled models"):
            self._compiled.forget_superseded(compiler_version)

    def remarks(self) -> Mapping[str, tuple[Remark, ...]]:
        """What the compiler remarked on each bundle that was compiled here, by its digest."""
        with translated("cannot read compiled models"):
            return self._compiled.remarks()

    # What serves.

    def commit(
        self, digest: Digest, cause: str = "", gate_closed_seconds: float | None = None
    ) -> None:
        """Make the bundle the one to serve from now on, after every restart and power cut.

        Args:
            cause: who wanted it and why, for the history.
            gate_closed_seconds: for how long calls were held.
        """
        model = self._title(self._entry(digest))
        commit = Commit(digest, time.time(), model, cause, gate_closed_seconds)
        with translated(f"cannot commit {model}"):
            self._catalogue.commit(commit)

    def committed(self) -> BundleRecord | None:
        """The bundle that was committed last."""
        served = list(self._catalogue.served())
        return self.get(served[0]) if served else None

    def last_good(self) -> BundleRecord | None:
        """The bundle that served before the committed one, passing over those set aside."""
        for digest in list(self._catalogue.served())[1:]:
            if self._entry(digest).set_aside is None:
                return self.get(digest)
        return None

    def history(self, limit: int = 10_000) -> Sequence[Commit]:
        """The last *limit* commits, the newest first. Older ones than 10 000 are forgotten."""
        return self._catalogue.commits(limit)

    def pinned(self) -> bool:
        """Whether what serves is to stay, whatever is dropped."""
        return self._catalogue.pinned()

    def pin(self, pinned: bool) -> None:
        """Have what serves stay, or no longer."""
        with translated("cannot change the pin"):
            self._catalogue.pin(pinned)

    def begin_attempt(self, digest: Digest) -> int:
        """Count an attempt to start the bundle, before it is made; returns how many there are.

        It is on disk when this returns, so an attempt that takes the machine down counts.
        """
        self._entry(digest)
        with translated("cannot count an attempt"):
            attempts = self._catalogue.count_attempt(digest)
            fault_point("store.attempt.counted")
        return attempts

    def clear_attempts(self, digest: Digest) -> None:
        """Forget the attempts: one went well."""
        with translated("cannot clear the attempts"):
            self._catalogue.clear_attempts(digest)

    def set_aside(self, digest: Digest, reason: str) -> None:
        """Note that the bundle is not to be started, and why. A commit takes it back."""
        self._entry(digest)
        with translated("cannot set a bundle aside"):
            self._catalogue.set_aside(digest, reason)

    def clear_set_aside(self, digest: Digest) -> None:
        """Let the bundle be started again, and forget its attempts."""
        self._entry(digest)
        with translated("cannot take a bundle back"):
            self._catalogue.set_aside(digest, None)

    # What goes.

    def remove(self, digest: Digest) -> None:
        """Forget the bundle; remove its files, as far as no other bundle has them too.

        What a crash leaves of the files is removed at the next opening.

        Raises:
            NotFoundError: there is no such bundle.
            InputError: it is the committed one.
        """
        with self._writing, translated("cannot remove a bundle"):
            title = self._title(self._entry(digest))
            if not self._catalogue.remove(digest, title):
                raise InputError(
                    f"cannot remove {title}: it is the committed model, which serves after a"
                    " restart; activate another one first: edgectl activate NAME"
                )
            self._sweep()

    def collect(self, keep: int, protect: Collection[Digest] = ()) -> Sequence[BundleRecord]:
        """Remove what is old.

        Kept are the committed bundle, the last good one, and of the others *keep*: first those in
        *protect*, all of them, then the newest, by when they were added or committed, whichever was
        later.

        Returns:
            those that were removed.
        """
        with self._writing, translated("cannot remove old bundles"):
            served = self._catalogue.served()
            good = (self.committed(), self.last_good())
            kept = {record.digest for record in good if record}
            others = [record for record in self.list() if record.digest not in kept]
            others.sort(key=lambda r: max(r.added, served.get(r.digest, 0.0)), reverse=True)
            old = [record for record in others if record.digest not in protect]
            spared = max(0, keep - (len(others) - len(old)))
            removed = [r for r in old[spared:] if self._catalogue.remove(r.digest, str(r))]
            if removed:
                self._sweep()
        return removed

    def scratch(self) -> Path:
        """A new private folder on the store's file system; gone at the next opening at the latest.

        Raises:
            StoreError: it cannot be made.
        """
        with translated("cannot make a scratch folder"):
            return Path(tempfile.mkdtemp(dir=self._scratch))

    # Inside.

    def _sweep(self) -> None:
        """Remove the blobs and the compiled models of bundles that the catalogue does not have."""
        entries = self._catalogue.entries()
        known = {str(entry.digest) for entry in entries}
        for folder, bundle in self._compiled.bundles().items():
            if bundle not in known:
                self._compiled.remove(folder)
        try:
            used = {digest.hex for entry in entries for digest in self._files(entry)}
        except StoreError as error:
            # Whose the blobs are cannot be told while one bundle cannot be read.
            _log.warning("keeping all blobs: %s", error)
            return
        for name in self._blobs.names() - used:
            self._blobs.remove(name)
        self._blobs.sync()

    def _files(self, entry: Entry) -> Iterator[Digest]:
        yield entry.digest
        yield self._config_digest(entry.digest)
        for file in self._record(entry).manifest.files:
            yield file.digest

    def _title(self, entry: Entry) -> str:
        """Name and version, or the digest of one that cannot be read."""
        try:
            return str(self._record(entry))
        except StoreError:
            return str(entry.digest)

    def _entry(self, digest: Digest) -> Entry:
        entry = self._catalogue.entry(digest)
        if entry is None:
            raise NotFoundError(f"cannot find bundle {digest}: it is not in the store")
        return entry

    def _record(self, entry: Entry) -> BundleRecord:
        with translated(f"cannot read bundle {entry.digest}"):
            config = self._blobs.path(self._config_digest(entry.digest)).read_bytes()
        try:
            manifest = Manifest.parse(config)
        except BundleError as error:
            raise StoreError(f"cannot read bundle {entry.digest}: {error}") from error
        return BundleRecord(
            entry.digest,
            manifest,
            entry.added,
            entry.attempts,
            entry.set_aside,
            entry.set_aside_at,
        )

    def _config_digest(self, digest: Digest) -> Digest:
        try:
            return config_digest(self._blobs.path(digest).read_bytes())
        except BundleError as error:
            raise StoreError(f"cannot read bundle {digest}: {error}") from error

    def _open_catalogue(self) -> Catalogue:
        path = self._root / "catalogue.db"
        if not path.exists():
            return self._rebuild(path, "cannot find the catalogue", Content())
        try:
            return Catalogue(path)
        except UnreadableError as error:
            content = salvage(path)
            damaged = [path, *(file for file in companions(path) if file.exists())]
            folder = quarantine(self._root, damaged, str(error), keep=path)
            return self._rebuild(path, f"{error}; a copy is in {folder}", content)

    def _rebuild(self, path: Path, reason: str, content: Content) -> Catalogue:
        """A catalogue of the bundles that are whole on disk; of the old rows, those that fit."""
        known = {entry.digest: entry for entry in content.entries}
        whole = [
            known.get(digest, Entry(digest, time.time()))
            for digest, content in self._blobs.small(_MAX_METADATA_BYTES)
            if self._is_whole_bundle(content)
        ]
        digests = {entry.digest for entry in whole}
        kept = [commit for commit in content.commits if commit.digest in digests]
        if whole or content.entries or reason != "cannot find the catalogue":
            serving = f"{kept[-1].digest} serves as before" if kept else "none is committed"
            self._report(
                f"{reason}; a new one was made from the {len(whole)} bundles on disk, and {serving}"
            )
        return Catalogue.create(path, Content(tuple(whole), tuple(kept), content.pinned))

    def _is_whole_bundle(self, content: bytes) -> bool:
        try:
            config = config_digest(content)
            manifest = Manifest.parse(self._blobs.path(config).read_bytes())
        except (BundleError, StoreError):
            return False
        return all(self._blobs.has(file.digest) for file in manifest.files)

    def _report(self, problem: str) -> None:
        _log.error("%s", problem, extra=about(Notice.DAMAGED))
        self.problems += (problem,)
