"""Bearer tokens: a secret for each client, of which only the hash is kept.

The file has a line for each: ``NAME sha256:HEX 2026-11-23T01:02:03Z``. Lines may be taken out by
hand; what begins with ``#`` is a remark.

A token is 256 random bits. A slow hash, as passwords need, would bring nothing: there is no
dictionary to try, and each call would pay for it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edged.errors import ConfigError, InputError, NotFoundError

__all__ = ["Token", "TokenFile", "owner_of"]

_PREFIX: Final = "edged_"
"""By this, those who look for secrets in places where they should not be find one of ours."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE: Final = re.compile(
    rf"(?P<name>{_NAME.pattern}) sha256:(?P<digest>[0-9a-f]{{64}}) (?P<created>\S{{1,40}})"
)
_MAX_FILE_BYTES: Final = 1 << 20
_MAX_TOKENS: Final = 1000
_MAX_SECRET: Final = 512


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of one.

    Attributes:
        name: of the client that it was made for.
        digest: SHA-256 of the secret, 32 bytes.
        created: when.
    """

    name: str
    digest: bytes
    created: datetime

    def __str__(self) -> str:
        return f"{self.name} sha256:{self.digest.hex()} {self.created:%Y-%m-%dT%H:%M:%SZ}"


def owner_of(secret: str, tokens: Sequence[Token]) -> str | None:
    """The name of the token that *secret* is; None when it is none.

    The time that it takes tells neither which token it is nor how near to one it is.
    """
    digest = hashlib.sha256(secret[:_MAX_SECRET].encode("utf-8", "replace")).digest()
    owner = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            owner = token.name
    return owner if len(secret) <= _MAX_SECRET else None


class TokenFile:
    """The file of tokens; there may be none yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Token, ...]:
        """All tokens, in the order in which they were made.

        Raises:
            ConfigError: the file cannot be read, or a line of it.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigError(
                f"cannot read the tokens {self.path}: {error.strerror}; serving.tokens has to be a"
                " file that edged's user may read"
            ) from error
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(
                f"cannot read the tokens {self.path}: it is larger than {_MAX_FILE_BYTES} bytes"
            )
        tokens = tuple(self._parsed(data.decode("utf-8", "replace")))
        if len(tokens) > _MAX_TOKENS:
            raise ConfigError(
                f"cannot use the tokens {self.path}: there are {len(tokens)}, at most {_MAX_TOKENS}"
            )
        return tokens

    def add(self, name: str) -> str:
        """Make a token.

        Returns:
            the secret, which nobody can tell again.

        Raises:
            InputError: the name cannot be used, or there is one of that name.
            ConfigError: the file cannot be read or written.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                f"cannot make a token for {name[:80]!r}: wanted up to 64 letters, digits, and any"
                " of . _ @ - after the first, such as line-3-camera"
            )
        secret = _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        digest = hashlib.sha256(secret.encode()).digest()
        with self._alone() as tokens:
            if any(token.name == name for token in tokens):
                raise InputError(
                    f"cannot make a token for {name}: there is one; revoke it first, or make a"
                    f" second one under another name, such as {name}-2"
                )
            self._write([*tokens, Token(name, digest, datetime.now(UTC))])
        return secret

    def revoke(self, name: str) -> None:
        """Take the token out.

        Raises:
            NotFoundError: there is none of that name.
            ConfigError: the file cannot be read or written.
        """
        with self._alone() as tokens:
            left = [token for token in tokens if token.name != name]
            if len(left) == len(tokens):
                there = ", ".join(token.name for token in tokens) or "none"
                raise NotFoundError(f"cannot revoke {name[:80]!r}: the tokens there are: {there}")
            self._write(left)

    def _parsed(self, text: str) -> Iterator[Token]:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                found = _LINE.fullmatch(line.strip())
                if found is None:
                    raise ValueError(line)
                created = datetime.fromisoformat(found["created"])
            except ValueError as error:
                # The line is not repeated: someone may have written a secret there.
                raise ConfigError(
                    f"cannot read the tokens {self.path}: line {number} is no"
                    " `NAME sha256:HEX TIME`; `edgectl token add NAME` writes such lines"
                ) from error
            yield Token(found["name"], bytes.fromhex(found["digest"]), created)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[tuple[Token, ...]]:
        """The tokens, which nobody else changes meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self._not_written(error) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield self.read()
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, tokens: Sequence[Token]) -> None:
        """All of them or, when the power fails, those that were there before."""
        lines = "".join(f"{token}\n" for token in tokens)
        try:
            of_whom = (self.path if self.path.exists() else self.path.parent).stat()
            number, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            temporary = Path(name)
            try:
                with open(number, "w", encoding="ascii") as file:  # noqa: PTH123  (a descriptor)
                    os.fchmod(number, 0o640)
                    if os.geteuid() == 0:
                        # So that the daemon, which is not root, can read what root writes.
                        os.fchown(number, of_whom.st_uid, of_whom.st_gid)
                    file.write(lines)
                    file.flush()
                    os.fsync(number)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot write the tokens {self.path}: {error.strerror}; it is the configuration's"
            " serving.tokens, and who runs edged may write it"
        )
