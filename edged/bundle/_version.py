"""Versions of models, after semver.org 2.0.0."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edged.errors import BundleError

__all__ = ["Version"]

_NUMBER: Final = r"(0|[1-9][0-9]{0,8})"
_PART: Final = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_FORM: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-({_PART}(?:\.{_PART})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
_MAX_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version.

    Attributes:
        major, minor, patch: the three numbers.
        prerelease, build: what follows ``-`` and ``+``; empty when absent.
    """

    major: int
    minor: int
    patch: int
    prerelease: str = ""
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD]``.

        Raises:
            BundleError: it is no semantic version.
        """
        match = _FORM.fullmatch(text) if len(text) <= _MAX_LENGTH else None
        if match is None:
            raise BundleError(
                f"cannot read version {text[:80]!r}: wanted MAJOR.MINOR.PATCH, such as 1.0.0, "
                f"2.1.3-rc.1 or 1.0.0+build7, of at most {_MAX_LENGTH} characters"
            )
        major, minor, patch, prerelease, build = match.groups(default="")
        return cls(int(major), int(minor), int(patch), prerelease, build)

    @property
    def serial(self) -> int | None:
        """The serial of a bundle that is given none: 1.2.3 becomes 1002003.

        ``None`` where minor or patch has more than three digits: the order would be lost.
        """
        if self.minor > 999 or self.patch > 999:
            return None
        return self.major * 1_000_000 + self.minor * 1_000 + self.patch

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        text += f"-{self.prerelease}" if self.prerelease else ""
        return text + (f"+{self.build}" if self.build else "")
