"""Images compiled before, so that a model is compiled once per compiler and array."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from edged.bundle import Digest
from edged.errors import EdgedError, StoreError
from edged.faults import fault_point
from edged.nesting import check_nesting
from edged.npu import ABI
from edged.remarks import FILE_NAME, MAX_BYTES, Remark, parse
from edged.store._blobs import digest_of
from edged.store._durable import quarantine, sync_file, sync_folder

__all__ = ["CompiledCache", "CompiledKey", "read_remarks"]

_INFO: Final = ".info.json"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class CompiledKey:
    """What a compiled model depends on.

    Attributes:
        bundle: the bundle's digest.
        compiler_version: of the compiler that made it.
        array: the device's array and buffers, printed.
        abi: of program images. What was compiled for another is compiled anew.
    """

    bundle: Digest
    compiler_version: str
    array: str
    abi: int = ABI

    @property
    def folder_name(self) -> str:
        text = json.dumps([self.bundle, self.compiler_version, self.array, self.abi])
        return hashlib.sha256(text.encode()).hexdigest()


class CompiledCache:
    """The folder ``compiled``: an entry is there only when all of it is on disk.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "compiled"
        self._folder.mkdir(exist_ok=True)

    def get(self, key: CompiledKey) -> Path | None:
        """The folder of the compiled model, its files checked, or ``None``.

        A damaged entry is put into quarantine and compiled again: it is only a cache.
        """
        folder = self._folder / key.folder_name
        if not folder.is_dir():
            return None
        problem = _damage(folder, key)
        if not problem:
            return folder
        quarantine(self._root, [folder], f"cannot use the compiled model {folder.name}: {problem}")
        return None

    def add(self, key: CompiledKey, source: Path) -> Path:
        """Copy the plain files of *source* in as the entry of *key*; an entry there is kept.

        Raises:
            StoreError: *source* has something else than plain files.
        """
        if (there := self.get(key)) is not None:
            return there
        staged = Path(tempfile.mkdtemp(dir=self._root / "scratch", prefix="compiled-"))
        try:
            self._stage(key, source, staged)
            folder = self._folder / key.folder_name
            staged.rename(folder)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        fault_point("store.compiled.renamed")
        sync_folder(self._folder)
        return folder

    def bundles(self) -> dict[Path, str]:
        """The folders there are, and the digest of the bundle that each was made from.

        Empty for one that does not say: nobody can ask for it.
        """
        return {folder: _bundle(folder) for folder in self._folder.iterdir() if folder.is_dir()}

    def outdated(self, bundles: Iterable[Digest], compiler_version: str, array: str) -> set[Digest]:
        """Those of *bundles* that were compiled, and not yet by this compiler for this array."""
        there = {folder.name: bundle for folder, bundle in self.bundles().items()}
        compiled = set(there.values())
        return {
            bundle
            for bundle in bundles
            if bundle in compiled
            and CompiledKey(bundle, compiler_version, array).folder_name not in there
        }

    def forget_superseded(self, compiler_version: str) -> None:
        """Remove what other compilers made, or for another ABI, where this one has made its own."""
        mine, others = set(), {}
        for folder, bundle in self.bundles().items():
            made = _versions(folder)
            if made == (compiler_version, ABI):
                mine.add(bundle)
            elif made is not None:
                others[folder] = bundle
        for folder, bundle in others.items():
            if bundle in mine:
                self.remove(folder)

    def remarks(self) -> dict[str, tuple[Remark, ...]]:
        """What the compiler remarked, by the digest of the bundle, where it was compiled last."""
        found = sorted(self.bundles().items(), key=lambda item: _made(item[0]))
        return {bundle: read_remarks(folder) for folder, bundle in found}

    def remove(self, folder: Path) -> None:
        """Remove an entry: out of sight at once, and then file by file."""
        doomed = Path(tempfile.mkdtemp(dir=self._root / "scratch", prefix="removed-"))
        folder.rename(doomed / folder.name)
        fault_point("store.compiled.removed")
        shutil.rmtree(doomed, ignore_errors=True)

    def _stage(self, key: CompiledKey, source: Path, staged: Path) -> None:
        files = {}
        for file in sorted(source.iterdir()):
            if not stat.S_ISREG(file.lstat().st_mode):
                raise StoreError(f"cannot keep the compiled model: {file.name} is no plain file")
            copy = staged / file.name
            shutil.copyfile(file, copy, follow_symlinks=False)
            copy.chmod(0o444)
            sync_file(copy)
            files[file.name] = digest_of(copy)
        info = {"format": _FORMAT, "key": asdict(key), "files": files}
        (staged / _INFO).write_text(json.dumps(info, indent=1))
        sync_file(staged / _INFO)
        sync_folder(staged)
        staged.chmod(0o755)
        fault_point("store.compiled.staged")


def read_remarks(folder: Path) -> tuple[Remark, ...]:
    """The remarks of the compiled model in *folder*; none where they cannot be read."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            return parse(file.read(MAX_BYTES + 1))
    except (OSError, EdgedError):
        return ()


def _made(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # It was removed meanwhile.
        return 0.0


def _bundle(folder: Path) -> str:
    try:
        return str(_info(folder)["key"]["bundle"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _versions(folder: Path) -> tuple[object, object] | None:
    """Of the compiler and the ABI; of ABI 1, entries do not say so. ``None``: cannot be read."""
    try:
        key = _info(folder)["key"]
        return key["compiler_version"], key.get("abi", 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _info(folder: Path) -> dict[str, Any]:
    """What was noted beside the files; raises OSError and ValueError."""
    text = (folder / _INFO).read_bytes()
    check_nesting(text)
    info: dict[str, Any] = json.loads(text)
    return info


def _damage(folder: Path, key: CompiledKey) -> str:
    try:
        info = _info(folder)
        if info["format"] != _FORMAT or info["key"] != asdict(key):
            return f"it was made for {info['key']} in format {info['format']}"
        for name, digest in info["files"].items():
            if digest_of(folder / name) != digest:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{error!r}"
    return ""
