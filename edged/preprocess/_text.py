"""The preprocessing as people write it: ``crop=224x224,short=256,scale=1/255``."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeVar

from edged.errors import InputError

__all__ = ["Words", "member", "number", "pixels", "size", "split", "triple"]

E = TypeVar("E", bound=enum.StrEnum)

_KEYS: Final = ("input", "short", "sampling", "channels", "scale", "mean", "std")
_EXAMPLES: Final = (
    "try 'stretch', 'stretch=224x224', 'imagenet', 'ssd' or "
    "'crop,short=256,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225'"
)


@dataclass(frozen=True, slots=True)
class Words:
    """What was written, cut at its commas: ``NAME[=SIZE][,KEY=VALUE…]``."""

    name: str
    size: str
    options: Mapping[str, str]


def split(text: str) -> Words:
    """Cut *text* up; `InputError` for a key that is not known or is there twice."""
    head, *rest = (part.strip() for part in text.split(","))
    name, _, size = (part.strip() for part in head.partition("="))
    options = dict(_option(part) for part in rest)
    if len(options) != len(rest):
        raise _bad(f"{text!r} gives an option twice")
    return Words(name, size, options)


def member(what: str, name: str, kind: type[E], also: Mapping[str, str] | None = None) -> E:
    """The member of *kind* that is called *name*, or is called so in *also*."""
    try:
        return kind((also or {}).get(name, name))
    except ValueError:
        close = difflib.get_close_matches(name, list(kind), n=1)
        hint = f"did you mean {close[0]}?" if close else _EXAMPLES
        raise _bad(f"{what} {name!r} is none of {', '.join(kind)} ({hint})") from None


def size(text: str) -> tuple[int, int]:
    """Width and height of ``WIDTHxHEIGHT``."""
    width, x, height = text.lower().partition("x")
    if not (x and _is_count(width) and _is_count(height)):
        raise _bad(f"{text!r} is no size; wanted WIDTHxHEIGHT, such as 224x224")
    return int(width), int(height)


def pixels(key: str, text: str | None) -> int | None:
    """A number of pixels, if it was written."""
    if text is None:
        return None
    if not _is_count(text):
        raise _bad(f"{key} is {text!r}; wanted a number of pixels, such as 256")
    return int(text)


def number(key: str, text: str) -> float:
    """A number, or a fraction of two, each as people write them: ``1/255``, ``1/127.5``."""
    above, *below = map(str.strip, text.split("/"))
    try:
        if len(below) > 1:
            raise ValueError
        return float(Fraction(above) / Fraction(*below or "1"))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise _bad(f"{key} is {text!r}; wanted a number such as 0.5 or 1/255") from None


def triple(key: str, text: str) -> tuple[float, float, float]:
    """Three numbers, in the order of the channels, or one for all."""
    numbers = [number(key, part) for part in text.split(":")]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise _bad(f"{key} is {text!r}; wanted one number, or three as in 123.68:116.779:103.939")
    return numbers[0], numbers[1], numbers[2]


def _option(part: str) -> tuple[str, str]:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals or key not in _KEYS:
        close = difflib.get_close_matches(key, _KEYS, n=1)
        hint = f"did you mean {close[0]}=?" if close else _EXAMPLES
        raise _bad(f"{part!r} is no option; wanted {', '.join(_KEYS)} with '=' ({hint})")
    return key, value


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _bad(problem: str) -> InputError:
    return InputError(f"cannot use the preprocessing: {problem}")
