"""Files by the digest of their content."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edged.bundle import Digest
from edged.errors import BundleError, StoreError
from edged.faults import fault_point
from edged.store._durable import quarantine, sync_file, sync_folder

__all__ = ["Blobs", "digest_of"]

_NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


def digest_of(path: Path) -> Digest:
    """The digest of what *path* holds now."""
    with path.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


class Blobs:
    """The folder ``blobs/sha256``: a name is there only once its content is on disk.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "blobs" / "sha256"
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, source: Path, digest: Digest) -> None:
        """Take the content of *source*, which is known to have that digest; keep *source*.

        `sync` has to follow before anything relies on it.
        """
        blob = self._folder / digest.hex
        if blob.exists() and not self._damage(digest):
            return
        source.chmod(0o444)
        sync_file(source)
        try:
            os.link(source, blob, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(source, blob)
        fault_point("store.blob.linked")

    def sync(self) -> None:
        """Have the names of what was added on disk."""
        sync_folder(self._folder)

    def path(self, digest: Digest) -> Path:
        """The file that holds the content of *digest*, checked now.

        Raises:
            StoreError: it is missing, or damaged and therefore in quarantine.
        """
        if not self.has(digest):
            raise StoreError(
                f"cannot read blob {digest}: it is missing from the store; drop its bundle again"
            )
        if problem := self._damage(digest):
            raise StoreError(problem)
        return self._folder / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether there is a blob of that name; its content is not looked at."""
        return (self._folder / digest.hex).is_file()

    def small(self, max_bytes: int) -> Iterator[tuple[Digest, bytes]]:
        """Every undamaged blob of at most *max_bytes*."""
        for path in sorted(self._folder.iterdir()):
            try:
                digest = Digest.parse(f"sha256:{path.name}")
            except BundleError:
                continue  # a copy that a crash left; `Store` clears those
            if path.stat().st_size <= max_bytes:
                content = path.read_bytes()
                if Digest.of(content) == digest:
                    yield digest, content

    def names(self) -> set[str]:
        """The digests of all blobs, as hexadecimal digits."""
        return {path.name for path in self._folder.iterdir() if not path.name.startswith(".")}

    def remove(self, name: str) -> None:
        """Remove the blob of that name; a crash may bring it back, until `sync`."""
        (self._folder / name).unlink(missing_ok=True)
        fault_point("store.blob.removed")

    def clear_partial(self) -> None:
        """Remove the copies that a crash left unfinished."""
        for path in self._folder.glob(".partial-*"):
            path.unlink()

    def link(self, digest: Digest, to: Path) -> None:
        """Make *to* a read-only file with the content of *digest*.

        Raises:
            StoreError: as `path`.
        """
        source = self.path(digest)
        try:
            os.link(source, to)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, to)

    def _copy(self, source: Path, blob: Path) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".partial-")
        partial = Path(name)
        try:
            with source.open("rb") as original, os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(original, file)
                file.flush()
                os.fchmod(handle, 0o444)
                os.fsync(handle)
            partial.rename(blob)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _damage(self, digest: Digest) -> str:
        """Empty when the blob is as its name says; otherwise why not, and it is out of the way."""
        blob = self._folder / digest.hex
        found = digest_of(blob)
        if found == digest:
            return ""
        reason = f"cannot read blob {digest}: its content has the digest {found} now"
        folder = quarantine(self._root, [blob], reason)
        return f"{reason}; it was moved to {folder}; drop its bundle again"
