"""Whether it is the loaded model that a request means."""

from __future__ import annotations

from edged.bundle import Manifest
from edged.errors import NotFoundError

__all__ = ["check_model", "check_serial", "check_version"]


def check_model(manifest: Manifest, name: str) -> None:
    """An empty name means the loaded model.

    Raises:
        NotFoundError: it is another; names the one that is loaded.
    """
    if name and name != manifest.name:
        raise NotFoundError(f"cannot answer: no model {name!r} is loaded, but {_loaded(manifest)}")


def check_serial(manifest: Manifest, serial: int) -> None:
    """A version as TensorFlow Serving numbers them.

    Raises:
        NotFoundError: it is another.
    """
    if serial != manifest.serial:
        raise _other(manifest, str(serial))


def check_version(manifest: Manifest, version: str) -> None:
    """A version as people write it, or a serial in digits, which is what answers say.

    Triton's perf_analyzer takes the versions of answers for numbers.

    Raises:
        NotFoundError: it is another.
    """
    if version not in ("", str(manifest.version), str(manifest.serial)):
        raise _other(manifest, version)


def _other(manifest: Manifest, asked: str) -> NotFoundError:
    return NotFoundError(
        f"cannot answer: version {asked!r} of {manifest.name!r} is not loaded, but"
        f" {_loaded(manifest)}"
    )


def _loaded(manifest: Manifest) -> str:
    return f"{manifest.name!r} {manifest.version} (serial {manifest.serial})"
