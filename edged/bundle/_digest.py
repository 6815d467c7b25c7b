"""The name of a blob: the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Self

from edged.errors import BundleError

__all__ = ["Digest"]

_FORM: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Digest(str):
    """A SHA-256 as OCI prints it: ``sha256:`` and 64 lower-case hex digits; nothing else is one.

    Raises:
        BundleError: it is another algorithm, or no digest.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if _FORM.fullmatch(text) is None:
            raise BundleError(
                f"cannot read digest {text[:80]!r}: wanted 'sha256:' and 64 lower-case hex digits"
            )
        return super().__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the printed form, which is also the value."""
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of *data*."""
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}")

    @property
    def hex(self) -> str:
        """The 64 digits: the name of the blob's file."""
        return self.removeprefix("sha256:")

    @property
    def short(self) -> str:
        """Twelve digits: enough for people."""
        return self.hex[:12]
