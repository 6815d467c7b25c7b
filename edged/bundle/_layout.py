"""An OCI image layout in one tar: written reproducibly, read with every size bounded.

`tarfile` would read extension headers of any length into memory, follow sparse maps and links, and
take the last of two members of one name. Here, 512 bytes at a time are looked at, and a bundle has
nothing but plain files and two directories.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from edged._filekinds import compression_of
from edged.bundle._digest import Digest
from edged.bundle._strict import decode, encode
from edged.errors import BundleError, LimitError

__all__ = [
    "CONFIG_TYPE",
    "Archive",
    "Descriptor",
    "ImageManifest",
    "config_digest",
    "layer_annotations",
    "write_layout",
]

CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
FILE_PATH: Final = "org.cncf.model.filepath"
TITLE: Final = "org.opencontainers.image.title"

MAX_MEMBERS: Final = 32
MAX_METADATA_BYTES: Final = 1 << 20
_MAX_PAX_BYTES: Final = 16 << 10
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_LAYOUT: Final = "oci-layout"
_INDEX: Final = "index.json"
_BLOB: Final = re.compile(r"blobs/sha256/[0-9a-f]{64}", re.ASCII)
# ORAS and containerd keep "ingest" in a layout, for blobs that are still on their way.
_DIRECTORIES: Final = ("", "blobs", "blobs/sha256", "ingest")
_PACK_IT: Final = "wanted the layout itself: tar -C LAYOUT -cf NAME.edgemodel ."
_KINDS: Final = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a long name",
    tarfile.GNUTYPE_LONGLINK: "a long link",
    tarfile.XGLTYPE: "a global extension",
}
# Extension records that say nothing of where a member's bytes are.
_HARMLESS_PAX: Final = (
    *("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"),
    *("SCHILY.xattr.", "SCHILY.acl.", "SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.fflags"),
    *("LIBARCHIVE.xattr.", "LIBARCHIVE.creationtime", "RHT.security.selinux"),
)


class Descriptor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """OCI's pointer to a blob: kind, digest, size in bytes."""

    media_type: str = msgspec.field(name="mediaType")
    digest: Digest
    size: int
    annotations: dict[str, str] = {}
    artifact_type: str = msgspec.field(name="artifactType", default="")


class ImageManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """OCI's image manifest, as ModelPack uses it."""

    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = msgspec.field(name="mediaType")
    artifact_type: str = msgspec.field(name="artifactType")
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    schema_version: int = msgspec.field(name="schemaVersion")
    manifests: tuple[Descriptor, ...]
    # skopeo 1.9 leaves it out.
    media_type: str = msgspec.field(name="mediaType", default="")
    annotations: dict[str, str] = {}


class _Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str = msgspec.field(name="imageLayoutVersion")


def layer_annotations(name: str) -> dict[str, str]:
    """The annotations by which ModelPack's tools, and ORAS, name the file of a layer."""
    return {FILE_PATH: name, TITLE: name}


def write_layout(
    file: IO[bytes], config: bytes, layers: Sequence[tuple[Descriptor, bytes]]
) -> Digest:
    """Write the layout: the same arguments give the same bytes.

    Args:
        file: where to.
        config: the bytes of the config.
        layers: descriptor and content of each layer.

    Returns:
        The digest of the image manifest: the bundle's identity.
    """
    manifest = encode(
        ImageManifest(
            schema_version=2,
            media_type=MANIFEST_TYPE,
            artifact_type=ARTIFACT_TYPE,
            config=Descriptor(media_type=CONFIG_TYPE, digest=Digest.of(config), size=len(config)),
            layers=tuple(descriptor for descriptor, _ in layers),
        )
    )
    identity = Digest.of(manifest)
    entry = Descriptor(
        media_type=MANIFEST_TYPE, digest=identity, size=len(manifest), artifact_type=ARTIFACT_TYPE
    )
    index = _Index(schema_version=2, media_type=INDEX_TYPE, manifests=(entry,))
    members = {_LAYOUT: encode(_Layout(version="1.0.0")), _INDEX: encode(index)}
    for blob in (config, manifest, *(content for _, content in layers)):
        members[f"blobs/sha256/{Digest.of(blob).hex}"] = blob
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(members.items()):
            header = tarfile.TarInfo(name)  # uid, gid and mtime are zero
            header.size, header.mode = len(content), 0o644
            tar.addfile(header, io.BytesIO(content))
    return identity


class Archive:
    """A tar that holds an OCI image layout, of which no more than the member list is believed.

    Args:
        file: seekable, and nobody else's to write.
        name: what the errors call it.

    Raises:
        BundleError: no tar, cut short, a member that is no plain file of the layout, or twice.
        LimitError: more members than `MAX_MEMBERS`.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._members = self._scan()

    def manifest(self) -> tuple[Digest, bytes, ImageManifest]:
        """The one image manifest: its digest, its bytes, and what it says.

        Raises:
            BundleError: the layout, index or manifest is missing, malformed or not as announced.
            LimitError: one of them is larger than `MAX_METADATA_BYTES`.
        """
        layout = decode(self._metadata(_LAYOUT), _Layout, self._in(_LAYOUT))
        self._want(_LAYOUT, "imageLayoutVersion", layout.version, "1.0.0")
        index = decode(self._metadata(_INDEX), _Index, self._in(_INDEX))
        self._want(_INDEX, "schemaVersion", index.schema_version, 2)
        # ORAS lists a manifest once for each of its tags.
        digests = {manifest.digest for manifest in index.manifests}
        self._want(_INDEX, "number of manifests", len(digests), 1)
        entry = index.manifests[0]
        self._want(_INDEX, "manifests[0].mediaType", entry.media_type, MANIFEST_TYPE)
        data = self.read(entry)
        manifest = decode(data, ImageManifest, self._in("the image manifest"))
        for key, found, wanted in (
            ("schemaVersion", manifest.schema_version, 2),
            ("mediaType", manifest.media_type, MANIFEST_TYPE),
            ("artifactType", manifest.artifact_type, ARTIFACT_TYPE),
            ("config.mediaType", manifest.config.media_type, CONFIG_TYPE),
        ):
            self._want("the image manifest", key, found, wanted)
        return entry.digest, data, manifest

    def read(self, blob: Descriptor) -> bytes:
        """A small blob, checked against its descriptor.

        Raises:
            BundleError: missing, or of another size or digest.
            LimitError: larger than `MAX_METADATA_BYTES`.
        """
        name = self._blob(blob)
        data = self._metadata(name)
        self._want(name, "SHA-256", str(Digest.of(data)), str(blob.digest))
        return data

    def extract(self, blob: Descriptor, to: Path) -> None:
        """Stream a blob into the new file *to*, checked against its descriptor.

        Raises:
            BundleError: missing, or of another size or digest. The file is removed.
        """
        name = self._blob(blob)
        offset, left = self._members[name]
        running = hashlib.sha256()
        self._file.seek(offset)
        with to.open("xb") as out:
            while left:
                chunk = self._file.read(min(left, _CHUNK))
                if not chunk:
                    raise self._bad(f"{name} is cut short")
                running.update(chunk)
                out.write(chunk)
                left -= len(chunk)
        if running.hexdigest() != blob.digest.hex:
            to.unlink()
            self._want(name, "SHA-256", f"sha256:{running.hexdigest()}", str(blob.digest))

    def refuse_others(self, wanted: Sequence[Descriptor]) -> None:
        """Raise `BundleError` when there is a blob that none of *wanted* points to."""
        known = {f"blobs/sha256/{blob.digest.hex}" for blob in wanted} | {_LAYOUT, _INDEX}
        for name in self._members:
            if name not in known:
                raise self._bad(
                    f"{name} is there, but neither the manifest nor the config names it"
                )

    def _blob(self, blob: Descriptor) -> str:
        name = f"blobs/sha256/{blob.digest.hex}"
        if name not in self._members:
            raise self._bad(f"{name} is missing")
        self._want(name, "size", self._members[name][1], blob.size)
        return name

    def _metadata(self, name: str) -> bytes:
        if name not in self._members:
            raise self._bad(f"{name} is missing")
        offset, size = self._members[name]
        if size > MAX_METADATA_BYTES:
            raise LimitError(
                f"cannot read {self._in(name)}: it has {size} bytes, at most {MAX_METADATA_BYTES} "
                "are taken"
            )
        self._file.seek(offset)
        return self._file.read(size)

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Name to offset and size of every plain member, up to the end mark and the file's end."""
        total = self._file.seek(0, os.SEEK_END)
        members: dict[str, tuple[int, int]] = {}
        root: str | None = None
        offset = count = 0
        while True:
            self._file.seek(offset)
            block = self._file.read(_BLOCK)
            if block == bytes(_BLOCK):
                break
            header = self._header(block, offset, total)
            count += 1
            if count > MAX_MEMBERS:
                raise LimitError(
                    f"cannot read {self._name}: it has more than {MAX_MEMBERS} members"
                )
            if header.type == tarfile.XHDTYPE:
                self._check_extension(header, offset + _BLOCK)
            else:
                root = _root(header.name) if root is None else root
                name = self._check_member(header, root, members)
                if header.isreg():
                    members[name] = (offset + _BLOCK, header.size)
            offset += _BLOCK + -(-header.size // _BLOCK) * _BLOCK
        self._check_end(offset, total)
        return members

    def _header(self, block: bytes, offset: int, total: int) -> tarfile.TarInfo:
        try:
            # Owners may have names of any alphabet; those of members are looked at later.
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            if offset == 0:
                if (how := compression_of(block)) is not None:
                    raise self._bad(
                        f"it is compressed by {how}, which a bundle is not; unpack it first:"
                        f" {how} -dc {self._name} > NEW.edgemodel"
                    ) from error
                found = f"bytes that start with {block[:8].hex(' ')}" if block else "no bytes"
                raise self._bad(f"found {found}; wanted a tar as 'edgectl pack' writes") from error
            what = "it is cut short" if len(block) < _BLOCK else "it is damaged"
            raise self._bad(f"{what} at byte {offset} ({error})") from error
        if header.size < 0 or offset + _BLOCK + header.size > total:
            raise self._bad(
                f"{header.name[:120]!r} announces {header.size} bytes at byte {offset}, "
                f"but the file ends at {total}: it is cut short"
            )
        return header

    def _check_member(
        self, header: tarfile.TarInfo, root: str, members: dict[str, tuple[int, int]]
    ) -> str:
        """The member's name within the layout."""
        shown = header.name[:120]
        name = _within(header.name, root)
        if header.isdir():
            if name not in _DIRECTORIES or header.size:
                raise self._bad(f"{shown!r} is a directory that no OCI image layout has")
        elif not (header.isreg() and header.type in (tarfile.REGTYPE, tarfile.AREGTYPE)):
            kind = _KINDS.get(header.type, f"of the unknown kind {header.type!r}")
            raise self._bad(f"{shown!r} is {kind}; wanted plain files only; {_PACK_IT}")
        elif name is None or (name not in (_LAYOUT, _INDEX) and not _BLOB.fullmatch(name)):
            raise self._bad(
                f"{shown!r} is a member that no bundle has; wanted {_LAYOUT}, {_INDEX} and "
                f"blobs/sha256/…; {_PACK_IT}"
            )
        elif name in members:
            raise self._bad(f"{name} is there twice")
        return name or ""

    def _check_extension(self, header: tarfile.TarInfo, data: int) -> None:
        """A pax header may give times and owners; it may not change a name, a size or a link."""
        if header.size > _MAX_PAX_BYTES:
            raise LimitError(
                f"cannot read {self._name}: an extension header has {header.size} bytes, at most "
                f"{_MAX_PAX_BYTES} are taken"
            )
        self._file.seek(data)
        records = self._file.read(header.size)
        while records:
            digits, _, rest = records.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
            record = rest[: length - len(digits) - 1]
            key = record.partition(b"=")[0].decode("ascii", "replace")
            if length <= len(digits) + 2 or not record.endswith(b"\n"):
                raise self._bad(f"the extension header at byte {data} is damaged")
            if not key.startswith(_HARMLESS_PAX):
                raise self._bad(
                    f"an extension header sets {key[:80]!r}; wanted times and owners only; "
                    f"{_PACK_IT}"
                )
            records = records[length:]

    def _check_end(self, offset: int, total: int) -> None:
        """Two blocks of zeros and nothing but zeros after them."""
        self._file.seek(offset)
        if total - offset < 2 * _BLOCK:
            raise self._bad(f"it is cut short: the end mark at byte {offset} is not whole")
        while chunk := self._file.read(_CHUNK):
            if chunk.count(0) != len(chunk):
                raise self._bad(f"there are bytes behind the end mark at byte {offset}")

    def _in(self, member: str) -> str:
        return f"{member} of {self._name}"

    def _want(self, where: str, key: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            raise BundleError(
                f"cannot read {self._in(where)}: {key} is {str(found)[:120]!r}; wanted {wanted!r}"
            )

    def _bad(self, problem: str) -> BundleError:
        return BundleError(f"cannot read {self._name}: {problem}")


def _root(first: str) -> str:
    """The folder that the layout is in, as the name of the first member tells.

    ``tar -cf X LAYOUT`` writes ``LAYOUT/…``, ``tar -cf X .`` writes ``./…``; both of them write the
    folder first. Where the first member is one of the layout, as from skopeo, there is none.
    """
    top = first.removeprefix("./").partition("/")[0]
    return "" if top in (".", "..", "blobs", "ingest", _LAYOUT, _INDEX) else top


def _within(name: str, root: str) -> str | None:
    """The name that a member of the folder *root* has in the layout; None for any other."""
    name = name.removeprefix("./")
    if name in (".", root):
        return ""
    if not root:
        return name
    top, _, rest = name.partition("/")
    return rest if top == root and rest else None


def config_digest(oci_manifest: bytes) -> Digest:
    """The digest of the config that an image manifest names.

    Raises:
        BundleError: it is no image manifest of a bundle.
    """
    manifest = decode(oci_manifest, ImageManifest, "the image manifest")
    if manifest.artifact_type != ARTIFACT_TYPE:
        raise BundleError(f"cannot read the image manifest: it is no {ARTIFACT_TYPE}")
    return manifest.config.digest
