"""Which post-processing a bundle asks the container for, as a value."""

from __future__ import annotations

import difflib
import enum
from typing import Final

import msgspec

from edged.errors import InputError

__all__ = ["Epilogue", "EpilogueName"]

_MOST: Final = 1000
_EXAMPLES: Final = "try 'ssd' or 'ssd,threshold=0.4,top=100,overlap=0.5'"


class EpilogueName(enum.StrEnum):
    """What the container does with the model's outputs.

    ``ssd`` makes detections of the twelve outputs of SSD-VGG-300, ``yunet`` of the nine of YuNet
    that tell of boxes.
    """

    SSD = "ssd"
    YUNET = "yunet"


class Epilogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Post-processing by name, with its numbers; an invalid one cannot be made.

    Attributes:
        name: which one.
        threshold: a class scores above it or is not looked at; 0 up to, not including, 1.
        top: so many of the best scores go into the suppression, and so many detections there are at
            most; 1 to 1000.
        overlap: of two boxes of a class that overlap by this or more, the better one is kept; above
            0, up to 1.

    Raises:
        InputError: a number is out of its range.
    """

    name: EpilogueName
    threshold: float = 0.5
    top: int = 400
    overlap: float = 0.45

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise _bad(f"threshold is {self.threshold}; wanted 0 up to, not including, 1")
        if not 1 <= self.top <= _MOST:
            raise _bad(f"top is {self.top}; wanted 1 to {_MOST}")
        if not 0 < self.overlap <= 1:
            raise _bad(f"overlap is {self.overlap}; wanted more than 0, up to 1")

    @classmethod
    def parse(cls, text: str) -> Epilogue:
        """Read ``NAME[,threshold=0.5][,top=400][,overlap=0.45]``.

        Raises:
            InputError: the text cannot be understood; says what can.
        """
        head, *rest = (part.strip() for part in text.split(","))
        try:
            name = EpilogueName(head)
        except ValueError:
            raise _bad(f"{head!r} is none of {', '.join(EpilogueName)} ({_EXAMPLES})") from None
        options = dict(_option(part) for part in rest)
        if len(options) != len(rest):
            raise _bad(f"{text!r} gives an option twice")
        return cls(
            name,
            threshold=float(options.get("threshold", 0.5)),
            top=int(options.get("top", 400)),
            overlap=float(options.get("overlap", 0.45)),
        )

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.name},threshold={self.threshold:g},top={self.top},overlap={self.overlap:g}"


def _option(part: str) -> tuple[str, float]:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    kinds: dict[str, type[int] | type[float]] = {"threshold": float, "top": int, "overlap": float}
    if not equals or key not in kinds:
        close = difflib.get_close_matches(key, kinds, n=1)
        hint = f"did you mean {close[0]}=?" if close else _EXAMPLES
        raise _bad(f"{part!r} is no option; wanted {', '.join(kinds)} with '=' ({hint})")
    try:
        return key, kinds[key](value)
    except ValueError:
        wanted = "a whole number" if kinds[key] is int else "a number"
        raise _bad(f"{key} is {value!r}; wanted {wanted} ({_EXAMPLES})") from None


def _bad(problem: str) -> InputError:
    return InputError(f"cannot use the epilogue: {problem}")
