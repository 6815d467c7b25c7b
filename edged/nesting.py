"""How deeply a JSON text may be nested, checked before a decoder recurses into it.

Decoders recurse once for each level. Where the interpreter does not bound that recursion by the
stack there is, a text of nothing but brackets overruns the stack and ends the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["MAX_NESTING", "NestingError", "check_nesting"]

MAX_NESTING: Final = 64
"""Lists and objects within each other. A tensor has 32 dimensions at most, and a body two levels
around it."""

_BLOCK: Final = 1 << 16
"""Bytes that are looked at together: they and what is made of them stay in the cache."""
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")

if TYPE_CHECKING:
    _Bytes = npt.NDArray[np.uint8]


class NestingError(ValueError):
    """A text is nested more deeply than it may be."""


def check_nesting(text: bytes | memoryview, most: int = MAX_NESTING) -> None:
    """Bound the nesting of a JSON text, up to the first place where it is no JSON.

    Costs about a tenth of decoding a tensor in nested lists, and less for anything else.

    Raises:
        NestingError: its lists and objects are more than *most* levels deep.
    """
    if len(text) <= most:
        return
    # Most texts have few brackets, wherever they are. A command that reads no other does without
    # numpy, whose import would take longer than all that it does.
    small = isinstance(text, bytes) and len(text) <= _BLOCK
    if small and bytes(text).count(b"[") + bytes(text).count(b"{") <= most:
        return
    import numpy as np

    found = np.frombuffer(text, np.uint8)
    if sum(int(np.count_nonzero(_opens(block))) for block in _blocks(found)) <= most:
        return
    quotes = _where(found, lambda block: block == _QUOTE)
    if quotes.size and bool((found[quotes - 1] == _BACKSLASH).any()):
        # Pairs first: a run of backslashes in a string begins with one that is not escaped.
        plain = bytes(text).replace(rb"\\", b"").replace(rb"\"", b"")
        found = np.frombuffer(plain, np.uint8)
        quotes = _where(found, lambda block: block == _QUOTE)
    brackets = _where(found, _brackets)
    # Those in a string have an odd number of quotes before them.
    brackets = brackets[np.searchsorted(quotes, brackets) % 2 == 0]
    steps = np.where(_opens(found[brackets]), 1, -1)
    if int(np.cumsum(steps).max(initial=0)) > most:
        raise NestingError(f"it is nested too deeply: more than {most} lists and objects deep")


def _opens(block: _Bytes) -> npt.NDArray[np.bool_]:
    """Where there is a ``[`` or a ``{``, which differ in one bit."""
    opens: npt.NDArray[np.bool_] = (block & 0xDF) == ord("[")
    return opens


def _brackets(block: _Bytes) -> npt.NDArray[np.bool_]:
    """Where there is a bracket that opens or closes; those of a kind lie two apart."""
    import numpy as np

    found: npt.NDArray[np.bool_] = ((block & 0xDF) - np.uint8(ord("["))) & 0xFD == 0
    return found


def _blocks(found: _Bytes) -> list[_Bytes]:
    return [found[at : at + _BLOCK] for at in range(0, len(found), _BLOCK)]


def _where(found: _Bytes, test: Callable[[_Bytes], npt.NDArray[np.bool_]]) -> npt.NDArray[Any]:
    """The places of the bytes that *test* says are meant."""
    import numpy as np

    places = [np.flatnonzero(test(block)) for block in _blocks(found)]
    return np.concatenate([place + at * _BLOCK for at, place in enumerate(places)])
