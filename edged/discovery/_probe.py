"""Is it ours? Reads the first register of a card that nobody uses, and leaves it as it was."""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edged.discovery._card import Card
from edged.npu.registers import BAR0_SIZE, MAGIC, Reg

__all__ = ["Probe", "Verdict", "probe"]


class Verdict(enum.Enum):
    """What the first register said."""

    OURS = "ours"
    FOREIGN = "another design"
    UNKNOWN = "not known before it is opened"


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer, and what it rests on, in a few words."""

    verdict: Verdict
    why: str


def probe(card: Card) -> Probe:
    """Read the magic of *card* without a driver.

    Only where that can disturb nobody: a read may have an effect in a design that is not ours, so
    a card that a driver has is not read. One that does not decode memory is made to for the moment.
    """
    if card.driver is not None:
        return Probe(Verdict.UNKNOWN, f"{card.driver} has it")
    try:
        with _decoding(card):
            magic = _first_register(card.folder / "resource0")
    except (OSError, ValueError) as error:
        # Not root, or the kernel is locked down: whoever opens it by VFIO looks then.
        return Probe(Verdict.UNKNOWN, f"its registers cannot be read: {error}")
    if magic == MAGIC:
        return Probe(Verdict.OURS, f"its first register is {magic:#010x}")
    return Probe(Verdict.FOREIGN, f"its first register is {magic:#010x}, not {MAGIC:#010x}")


@contextlib.contextmanager
def _decoding(card: Card) -> Iterator[None]:
    """Have the kernel enable the function, and disable it again, unless it is enabled already."""
    if card.decodes:
        yield
        return
    switch = card.folder / "enable"
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text("0")


def _first_register(resource: Path) -> int:
    file = os.open(resource, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size < BAR0_SIZE:
            return 0  # Nothing of ours has so small a BAR.
        with (
            mmap.mmap(file, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as registers,
            memoryview(registers) as view,
            view.cast("I") as words,
        ):
            # One access of 32 bits, as the contract has it.
            return words[Reg.MAGIC // 4]
    finally:
        os.close(file)
