"""Who may write which register: one implementation of what :mod:`edged.npu.regmap` says of guards.

Whatever hands a device out to several openings asks it: the emulator, and the process that has a
card.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from edged.npu.regmap import BANKS, QUEUE_MANAGEMENT, Guard, Word

__all__ = ["AccessPolicy", "read_words", "words"]

_Opening = TypeVar("_Opening")


class AccessPolicy(Generic[_Opening]):
    """The rules, and who holds which bank's lock.

    Args:
        owner_of: tells which opening owns a queue, as things stand; None if it is free.
        is_open: whether an opening is still there. The queue of one that is gone may hang on to
            its memory for longer, and is nobody's as far as the rules go.
    """

    def __init__(
        self, owner_of: Callable[[int], _Opening | None], is_open: Callable[[_Opening], bool]
    ) -> None:
        self._owner_of = owner_of
        self._is_open = is_open
        self._locks: list[_Opening | None] = [None] * BANKS

    def refusal(self, opening: _Opening, word: Word, value: int) -> str | None:
        """Why *opening* may not write *value* there; None if it may."""
        register = word.register
        guard = register.guard_of.get(value, register.guard)
        if guard is Guard.ANYONE:
            return None
        if guard is Guard.OWNER:
            owner = self._owner_of(word.index)
            if owner is opening or (owner is None and register.takes):
                return None
            return f"queue {word.index} belongs to another opening"
        if guard is Guard.OWNER_OR_MANAGER and self._present_owner(word.index) in (None, opening):
            return None
        manager = self._present_owner(QUEUE_MANAGEMENT)
        if manager is opening or (manager is None and guard is not Guard.SOLE_MANAGER):
            return None
        return "another opening manages the device" if manager else "nobody manages the device"

    def reset_refusal(self, opening: _Opening) -> str | None:
        """Why *opening* may not reset the device; None if it may."""
        if self._present_owner(QUEUE_MANAGEMENT) in (None, opening):
            return None
        return "another opening manages the device"

    def lock(self, opening: _Opening, bank: int, value: int) -> bool:
        """Take the lock of a bank, or free it if *value* is 0; whether that took effect."""
        holder = self._locks[bank]
        if holder not in ((None, opening) if value == 0 else (None,)):
            return False
        self._locks[bank] = opening if value else None
        return True

    def unlock(self, opening: _Opening) -> list[int]:
        """Free all locks of *opening*; the numbers of their banks."""
        held = [bank for bank, holder in enumerate(self._locks) if holder is opening]
        for bank in held:
            self._locks[bank] = None
        return held

    def unlock_all(self) -> None:
        """After a reset."""
        self._locks = [None] * BANKS

    def _present_owner(self, queue: int) -> _Opening | None:
        owner = self._owner_of(queue)
        return owner if owner is not None and self._is_open(owner) else None


def read_words(read: Callable[[int], int], offset: int, size: int) -> bytes:
    """*size* bytes of BAR0 at *offset*, of words that *read* gives by their offsets."""
    if size == 4 and not offset & 3:
        return read(offset).to_bytes(4, "little")
    first = offset & ~3
    last = -(-(offset + size) // 4) * 4
    data = b"".join(read(at).to_bytes(4, "little") for at in range(first, last, 4))
    return data[offset - first : offset - first + size]


def words(offset: int, data: bytes) -> list[tuple[int, int]]:
    """Offset and value of each word that a write to BAR0 changes: one or two aligned ones.

    Any other write is ignored.
    """
    if offset & 3 or len(data) not in (4, 8):
        return []
    return [
        (offset + at, int.from_bytes(data[at : at + 4], "little")) for at in range(0, len(data), 4)
    ]
