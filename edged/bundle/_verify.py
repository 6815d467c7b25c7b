"""From a file that anyone may have written to a bundle that can be used.

The order of the steps is the contract; nothing is used before the step that vouches for it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from edged.bundle._digest import Digest
from edged.bundle._labels import parse_labels
from edged.bundle._layout import TITLE, Archive, Descriptor, ImageManifest
from edged.bundle._manifest import BundleFile, FileName, Manifest
from edged.errors import BundleError, LimitError, ShortageError
from edged.faults import fault_point

__all__ = [
    "MANIFEST_NAME",
    "MAX_BUNDLE_BYTES",
    "OCI_MANIFEST_NAME",
    "VerifiedBundle",
    "verify_bundle",
]

MAX_BUNDLE_BYTES: Final = 1 << 30
MANIFEST_NAME: Final = "manifest.json"
OCI_MANIFEST_NAME: Final = "oci-manifest.json"
_CHUNK: Final = 1 << 20
_COPY: Final = ".bundle.tar"


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle whose every byte has been checked.

    Attributes:
        digest: of the image manifest; the bundle's identity, kept when registries copy it.
        manifest: what it says of its model.
        folder: has the bundle's files by their names, ``manifest.json`` (the config as it was
            signed) and ``oci-manifest.json``; the caller's to keep or remove.
    """

    digest: Digest
    manifest: Manifest
    folder: Path

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the output; none where the bundle has none."""
        if not self.manifest.labels:
            return ()
        return parse_labels((self.folder / FileName.LABELS).read_bytes())


def verify_bundle(path: Path, into: Path, *, max_bytes: int = MAX_BUNDLE_BYTES) -> VerifiedBundle:
    """Check the bundle at *path* and put its files into *into*.

    Args:
        path: the bundle; it may change or vanish meanwhile, a private copy is what is read.
        into: an empty or new folder.
        max_bytes: a larger file is refused before it is copied.

    Raises:
        BundleError: names the member, what was found and what was wanted.
        LimitError: the file or its metadata are too large.
        ShortageError: no space is left on the disk.
    """
    try:
        return _verify(path, into, max_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ShortageError(
            f"cannot unpack {path.name}: no space is left on the disk; free some, for instance with"
            " `edgectl remove NAME@VERSION`"
        ) from error


def _verify(path: Path, into: Path, max_bytes: int) -> VerifiedBundle:
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _private_copy(path, into / _COPY, max_bytes) as file:
        fault_point("bundle.copied")
        archive = Archive(file, path.name)
        digest, oci_manifest, image = archive.manifest()
        config = archive.read(image.config)
        # Here, before the config is parsed, its signature is to be checked (a layer of its own).
        manifest = Manifest.parse(config, f"the config of {path.name}")
        layers = _layers_of(manifest, image, path.name)
        entry = Descriptor(media_type="", digest=digest, size=len(oci_manifest))
        archive.refuse_others([entry, image.config, *image.layers])
        fault_point("bundle.checked")
        _check_space(manifest.files, into, path.name)
        for part, layer in zip(manifest.files, layers, strict=True):
            archive.extract(layer, into / part.name)
            fault_point("bundle.extracted")
    (into / MANIFEST_NAME).write_bytes(config)
    (into / OCI_MANIFEST_NAME).write_bytes(oci_manifest)
    return VerifiedBundle(digest=digest, manifest=manifest, folder=into)


@contextmanager
def _private_copy(path: Path, copy: Path, max_bytes: int) -> Iterator[IO[bytes]]:
    """A copy that nobody else can write while it is read; removed at the end."""
    with _open_plain(path) as original, copy.open("w+b") as file:
        copy.unlink()
        _check_size(os.fstat(original.fileno()).st_size, max_bytes, path.name)
        copied = 0
        while chunk := original.read(_CHUNK):
            copied += len(chunk)
            _check_size(copied, max_bytes, path.name)
            file.write(chunk)
        file.flush()
        yield file


def _open_plain(path: Path) -> IO[bytes]:
    """A link could point to what the one who dropped it may not read; a pipe would hang."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"cannot read {path.name}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"cannot read {path.name}: it is no plain file")
    return os.fdopen(descriptor, "rb")


def _check_size(size: int, max_bytes: int, name: str) -> None:
    if size > max_bytes:
        raise LimitError(
            f"cannot read {name}: it has {size} bytes or more, at most {max_bytes} are taken"
        )


def _layers_of(manifest: Manifest, image: ImageManifest, name: str) -> list[Descriptor]:
    """The layer of each file: the same number, and of the same name, kind, digest and size."""
    if len(image.layers) != len(manifest.files):
        raise BundleError(
            f"cannot read {name}: the image manifest has {len(image.layers)} layers, "
            f"edged.files names {len(manifest.files)}"
        )
    by_title = {layer.annotations.get(TITLE, ""): layer for layer in image.layers}
    layers = []
    for file in manifest.files:
        layer = by_title.get(file.name)
        if layer is None:
            raise BundleError(
                f"cannot read {name}: no layer has the annotation {TITLE} = {file.name!r}; "
                f"found {sorted(by_title)}"
            )
        for key, found, wanted in (
            ("mediaType", layer.media_type, str(file.media_type)),
            ("digest", str(layer.digest), str(file.digest)),
            ("size", layer.size, file.size),
        ):
            if found != wanted:
                raise BundleError(
                    f"cannot read {name}: layer {file.name}: {key} is {str(found)[:120]!r} in the "
                    f"image manifest; the config says {wanted!r}"
                )
        layers.append(layer)
    return layers


def _check_space(files: Sequence[BundleFile], folder: Path, name: str) -> None:
    wanted, free = sum(file.size for file in files), shutil.disk_usage(folder).free
    if wanted > free:
        raise LimitError(
            f"cannot unpack {name}: it takes {wanted} bytes, {free} are free on the file system "
            f"of {folder}; make room and drop it again"
        )
