"""What a user should know of a compiled model, in a line each: the compiler writes it once.

The store keeps ``remarks.json`` with the compiled model; the status file in the drop folder, the
log, the management API, ``edgectl`` and the models' metadata show the same lines.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from msgspec import DecodeError, Struct, json

from edged.errors import ModelError
from edged.nesting import NestingError, check_nesting

__all__ = ["FILE_NAME", "MAX_BYTES", "Code", "Remark", "parse", "remark", "serialize"]

FILE_NAME: Final = "remarks.json"
MAX_BYTES: Final = 64 << 10
_MAX_TEXT: Final = 600
_MAX_REMARKS: Final = 32


class Code(enum.StrEnum):
    """What a remark is about, for programs."""

    MADE_UP_CALIBRATION = "made-up-calibration"
    FEW_SAMPLES = "few-samples"
    COARSE_OUTPUT = "coarse-output"
    HOST_SHARE = "host-share"
    ROUND_TRIPS = "round-trips"
    NO_CODE = "no-code"


class Remark(Struct, frozen=True, omit_defaults=True):
    """One remark.

    Attributes:
        code: a `Code`, or one of a newer edged.
        text: one printable line.
        warning: it may cost accuracy or speed; otherwise it is for information.
        value: `HOST_SHARE`: the share of the multiply-accumulates that the host computes, 0 … 1;
            `ROUND_TRIPS`: how often the host takes a turn between runs of the device;
            `COARSE_OUTPUT`: the step of the output over its standard deviation;
            `FEW_SAMPLES`: how many there are. None where there is no number.
    """

    code: str
    text: str
    warning: bool = False
    value: float | None = None

    def __str__(self) -> str:
        return self.text


def remark(code: Code, text: str, *, warning: bool = True, value: float | None = None) -> Remark:
    """A remark whose text is one printable line: names in it come from the model."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    if len(line) > _MAX_TEXT:
        line = f"{line[: _MAX_TEXT - 1]}…"
    return Remark(code.value, line, warning, value)


def serialize(remarks: Sequence[Remark]) -> bytes:
    """The content of ``remarks.json``."""
    return json.encode(remarks)


def parse(content: bytes) -> tuple[Remark, ...]:
    """Read what `serialize` gave.

    Raises:
        ModelError: it is something else, or there is too much of it.
    """
    if len(content) > MAX_BYTES:
        raise ModelError(f"cannot read {FILE_NAME}: it has more than {MAX_BYTES} bytes")
    try:
        check_nesting(content)
        found = json.decode(content, type=tuple[Remark, ...])
    except (DecodeError, NestingError) as error:
        raise ModelError(f"cannot read {FILE_NAME}: {error}") from error
    if len(found) > _MAX_REMARKS or not all(
        len(each.text) <= _MAX_TEXT and each.text.isprintable() for each in found
    ):
        raise ModelError(
            f"cannot read {FILE_NAME}: wanted at most {_MAX_REMARKS} printable lines of"
            f" {_MAX_TEXT} characters"
        )
    return found
